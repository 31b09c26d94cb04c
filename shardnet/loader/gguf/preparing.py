"""A folder in Hugging Face layout for a GGUF file, made once: its configuration, its tokenizer, and its weights.

Of most files these stay where they are: the folder says where (`kept_index`), and devices read and unpack them there
(`as_it_is`). Those of others are converted (`conversion`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from shardnet.errors import BadConfiguration, UnsupportedModel
from shardnet.foreign.libraries import read_by_others
from shardnet.loader.copies import FileStamp, being_changed, stamp_of
from shardnet.loader.gguf.as_it_is import kept_as_it_is
from shardnet.loader.gguf.attention import check_turning
from shardnet.loader.gguf.config import configs_of, open_header
from shardnet.loader.gguf.conversion import convert_weights
from shardnet.loader.gguf.header import GgufHeader
from shardnet.loader.gguf.kept_index import write_kept
from shardnet.loader.gguf.naming import naming_of, wanted_shapes
from shardnet.loader.hashing import Hashes, keep
from shardnet.process.scratch import ScratchFolder
from shardnet.progress import Progress

FORMAT = 6
"""Part of the key under which a result is kept; raise it when what `prepare` writes changes."""
MAKING = ".making-"
WEIGHTS = "model.safetensors"
PREPARING = "preparing the GGUF file, once"


def prepare(path: Path, dtype: str, cache_dir: Path, progress: Progress | None = None) -> Path:
    """The folder for a GGUF file: from `cache_dir` where it is there already.

    Args:
        dtype: of the weights, where they are converted.

    Raises:
        DamagedCheckpoint: the file is truncated or no GGUF file, or was changed meanwhile.
        UnsupportedModel: its architecture or its quantisation cannot be read.
        BadConfiguration: `cache_dir` cannot be written.
    """
    path = Path(os.path.abspath(path))
    stamp = stamp_of(path)
    kept, converted = _folder(cache_dir, path, stamp, ""), _folder(cache_dir, path, stamp, dtype)
    found = next((folder for folder in (kept, converted) if folder.is_dir()), None)
    if found is not None:
        return found
    header = open_header(path)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        making = ScratchFolder(MAKING, cache_dir)
        try:
            hashes = _prepare_into(making.path, header, stamp, dtype, progress)
            _require_unchanged(path, stamp)
            folder = kept if hashes is None else converted
            _rename(making.path, folder)
            if hashes is not None:
                keep(cache_dir, stamp_of(folder / WEIGHTS), hashes)
        finally:
            making.remove()
    except OSError as cause:
        raise BadConfiguration(
            f"{path.name} cannot be prepared in {cache_dir} ({cause.strerror or cause}). "
            "Make room there, or set SHARDNET_CACHE to a folder that can be written."
        ) from cause
    return folder


def _folder(cache_dir: Path, path: Path, stamp: FileStamp, dtype: str) -> Path:
    """Where the result is kept. Args: `dtype`, '' where the weights stay in the file at `path`."""
    key = f"{list(stamp)}|{dtype or path}|{FORMAT}"
    name = f"{path.stem}-{dtype}" if dtype else path.stem
    return cache_dir / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _rename(making: Path, folder: Path) -> None:
    try:
        making.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process made it in the meantime
            raise


def _require_unchanged(path: Path, stamp: FileStamp) -> None:
    if not path.is_file() or stamp_of(path) != stamp:
        raise being_changed(path)


def _prepare_into(
    folder: Path, header: GgufHeader, stamp: FileStamp, dtype: str, progress: Progress | None
) -> Hashes | None:
    """Write configuration, tokenizer and where weights lie into `folder`, or the weights, and return their hashes."""
    import torch
    from transformers import GenerationConfig

    from shardnet.models import build_skeleton

    if progress:
        progress(PREPARING, 0.0, 1.0)
    raw_config, config = configs_of(header, folder)
    skeleton = build_skeleton(config, 0, config.num_hidden_layers + 1)
    check_turning(header, config, skeleton.frame)
    naming, shapes = naming_of(header, raw_config, skeleton), wanted_shapes(skeleton)
    places = kept_as_it_is(header, naming, raw_config, shapes)
    config.dtype = torch.float32 if places is not None else getattr(torch, dtype)
    config.architectures = [type(skeleton.frame).__name__]
    config.to_json_file(folder / "config.json", use_diff=False)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    _save_tokenizer(header.path, folder, config)
    if places is None:
        return convert_weights(folder / WEIGHTS, header, naming, shapes, config.dtype, progress)
    write_kept(folder, header.path, stamp, places)
    if progress:
        progress(PREPARING, 1.0, 1.0)
    return None


def _save_tokenizer(path: Path, folder: Path, config: Any) -> None:
    """Read where nothing lies beside the file: transformers prefers a tokenizer.json there, whatever model it is of."""

    def refused(reason: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"The tokenizer in {path.name} cannot be read ({reason}). Use the model's safetensors version."
        )

    with tempfile.TemporaryDirectory(dir=folder) as alone:
        Path(alone, path.name).symlink_to(path.resolve())
        with read_by_others(refused):
            tokenizer = _tokenizer_class(config).from_pretrained(alone, gguf_file=path.name, local_files_only=True)
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as cause:  # the tokenizers library has no class of its own for a disk that is full
        raise OSError(str(cause)) from cause


def _tokenizer_class(config: Any) -> Any:
    """Whom `AutoTokenizer` would ask, without the seconds in which it reads the vocabulary for a configuration."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    found = TOKENIZER_MAPPING.get(type(config), PreTrainedTokenizerFast)
    is_plain = isinstance(found, type) and found.__name__ != "MistralCommonBackend"  # for which it looks at more
    return found if is_plain else AutoTokenizer

"""GGUF files, converted once into a folder in Hugging Face layout: safetensors, configuration, tokenizer.

Weights are unpacked exactly (by the `gguf` library) one tensor at a time; names, permutations and offsets are those of
transformers' own GGUF tables, so the weights equal those of `from_pretrained(gguf_file=...)` bit for bit. What scales
rotary positions, and windows and partly turned heads, are read here, since transformers passes over them (see
`rope`, `attention`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from shardnet.errors import BadConfiguration, DamagedCheckpoint, UnsupportedModel
from shardnet.foreign.config_bounds import check_config
from shardnet.foreign.libraries import read_by_others
from shardnet.foreign.quoting import quoted, shortened
from shardnet.loader.claims import check_claims
from shardnet.loader.copies import FileStamp, being_changed, stamp_of
from shardnet.loader.gguf.attention import attention_of, check_turning
from shardnet.loader.gguf.header import GgufHeader, read_header
from shardnet.loader.gguf.rope import scaling_of
from shardnet.loader.gguf.tensors import Unpacker
from shardnet.loader.hashing import Hashes, keep
from shardnet.process.scratch import ScratchFolder
from shardnet.progress import Progress

FORMAT = 5
"""Part of the key under which a result is kept; raise it when what `convert` writes changes."""
MAKING = ".making-"
WEIGHTS = "model.safetensors"


def convert(path: Path, dtype: str, cache_dir: Path, progress: Progress | None = None) -> Path:
    """The folder with the converted model: from `cache_dir` where it is there already.

    Raises:
        DamagedCheckpoint: the file is truncated or no GGUF file, or was changed meanwhile.
        UnsupportedModel: its architecture or its quantisation cannot be read.
        BadConfiguration: `cache_dir` cannot be written.
    """
    stamp = stamp_of(path)
    key = f"{list(stamp)}|{dtype}|{FORMAT}"
    folder = cache_dir / f"{path.stem}-{dtype}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    header = open_header(path)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        making = ScratchFolder(MAKING, cache_dir)
        try:
            hashes = _convert_into(making.path, header, dtype, progress)
            _require_unchanged(path, stamp)
            making.path.rename(folder)
            keep(cache_dir, stamp_of(folder / WEIGHTS), hashes)
        finally:
            making.remove()
    except OSError as cause:
        if folder.is_dir():  # another process made it in the meantime
            return folder
        raise BadConfiguration(
            f"{path.name} cannot be converted into {cache_dir} ({cause.strerror or cause}). "
            "Make room there, or set SHARDNET_CACHE to a folder that can be written."
        ) from cause
    return folder


def _require_unchanged(path: Path, stamp: FileStamp) -> None:
    if not path.is_file() or stamp_of(path) != stamp:
        raise being_changed(path)


def read_config(path: Path) -> Any:
    """The transformers configuration in a GGUF file.

    Raises:
        DamagedCheckpoint, UnsupportedModel: as `convert`.
    """
    with tempfile.TemporaryDirectory(prefix="shardnet-") as folder:
        return _read_config(open_header(path), Path(folder))[1]


def open_header(path: Path) -> GgufHeader:
    """What a GGUF file says of itself, within bounds. Imports no torch.

    Raises:
        DamagedCheckpoint, UnsupportedModel: as `convert`.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UnsupportedModel(f"Reading {path.name} needs the package gguf. Run: pip install gguf")
    return read_header(path)


def _convert_into(folder: Path, header: GgufHeader, dtype: str, progress: Progress | None) -> Hashes:
    """Write configuration, tokenizer and weights of the GGUF file into `folder`; return the hashes of the weights."""
    import torch
    from transformers import GenerationConfig

    from shardnet.models import build_skeleton

    _tell(progress, 0.0)
    raw_config, config = _read_config(header, folder)
    config.dtype = getattr(torch, dtype)
    frame = build_skeleton(config, 0, 0).frame
    check_turning(header, config, frame)
    config.architectures = [type(frame).__name__]
    config.to_json_file(folder / "config.json", use_diff=False)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    _save_tokenizer(header.path, folder)
    return _write_weights(folder / WEIGHTS, header, raw_config, config, progress)


def _read_config(header: GgufHeader, folder: Path) -> tuple[dict[str, Any], Any]:
    """The configuration that transformers reads from the file: as a dictionary, and as an object.

    It is read from a copy without the vocabulary: transformers reads that by the `gguf` library, which takes seconds.
    """
    from transformers import CONFIG_MAPPING
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    from shardnet.models import family_of

    slim = folder / "slim.gguf"
    header.write_slim(slim)
    name = header.path.name
    try:
        with read_by_others(lambda reason: _not_from_gguf(name, f"architecture {quoted(header.architecture)}", reason)):
            raw = load_gguf_checkpoint(str(slim), return_tensors=False)["config"]
            raw.setdefault("vocab_size", header.vocab_size)
            family_of(raw["model_type"])
    finally:
        slim.unlink()
    raw.update(attention_of(header, raw))
    scaling = scaling_of(header, raw)
    if scaling is not None:
        raw["rope_scaling"] = scaling
    shown = shortened(str(header.path))
    tensors = [(tensor.name, tensor.shape) for tensor in header.tensors]
    check_config(raw, shown)
    check_claims(raw, tensors, shown, "its tensors")
    with read_by_others(lambda reason: _not_from_gguf(name, f"{raw['model_type']} configuration", reason)):
        config = CONFIG_MAPPING[raw["model_type"]].from_dict(dict(raw))
    check_config(config.to_dict(), shown)
    check_claims(config.to_dict(), tensors, shown, "its tensors")
    return raw, config


def _not_from_gguf(name: str, what: str, reason: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{name} holds a model of the {what}, which transformers cannot read from GGUF ({reason}). "
        "Use the model's safetensors version."
    )


def _save_tokenizer(path: Path, folder: Path) -> None:
    """Read where nothing lies beside the file: transformers prefers a tokenizer.json there, whatever model it is of."""
    from transformers import AutoTokenizer

    def refused(reason: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"The tokenizer in {path.name} cannot be read ({reason}). Use the model's safetensors version."
        )

    with tempfile.TemporaryDirectory(dir=folder) as alone:
        Path(alone, path.name).symlink_to(path.resolve())
        with read_by_others(refused):
            tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=path.name, local_files_only=True)
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as cause:  # the tokenizers library has no class of its own for a disk that is full
        raise OSError(str(cause)) from cause


def _write_weights(
    target: Path, header: GgufHeader, raw_config: dict[str, Any], config: Any, progress: Progress | None
) -> Hashes:
    """Unpack all tensors that the model wants, one after the other."""
    from shardnet.loader.safetensors_writer import SafetensorsWriter
    from shardnet.models import build_skeleton

    skeleton = build_skeleton(config, 0, config.num_hidden_layers + 1)
    shapes = {slot.name: tuple(slot.shape) for _, modules in skeleton.units() for slot in skeleton.slots(modules)}
    total = sum(tensor.num_bytes for tensor in header.tensors)
    done = 0
    with SafetensorsWriter(target, shapes, config.dtype) as writer, Unpacker(header, raw_config, config) as unpacker:
        for tensor in header.tensors:
            for name, values in unpacker.unpack(tensor):
                if name not in shapes:
                    continue
                if tuple(values.shape) != shapes[name]:
                    raise DamagedCheckpoint(
                        f"The tensor {tensor.name} in {header.path} should have the shape {list(shapes[name])} and has "
                        f"{list(values.shape)}. Download it again."
                    )
                writer.write(name, values)
            done += tensor.num_bytes
            _tell(progress, done / total)
        missing = writer.missing()
    if missing:
        raise DamagedCheckpoint(
            f"{header.path} lacks {len(missing)} of {len(shapes)} tensors, {missing[0]} among them. Download it again."
        )
    return writer.hashes


def _tell(progress: Progress | None, share: float) -> None:
    if progress:
        progress("converting the GGUF file, once", share, 1.0)

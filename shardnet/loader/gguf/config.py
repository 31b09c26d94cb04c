"""What a GGUF file says of its model, as transformers reads it, within bounds.

What scales rotary positions, and windows and partly turned heads, are read here, since transformers passes over them
(see `rope`, `attention`).
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from shardnet.errors import UnsupportedModel
from shardnet.foreign.config_bounds import check_config
from shardnet.foreign.libraries import read_by_others
from shardnet.foreign.quoting import quoted, shortened
from shardnet.loader.claims import check_claims
from shardnet.loader.gguf.attention import attention_of
from shardnet.loader.gguf.head import check_head, head_of
from shardnet.loader.gguf.header import GgufHeader, read_header
from shardnet.loader.gguf.rope import scaling_of


def read_config(path: Path) -> Any:
    """The transformers configuration in a GGUF file.

    Raises:
        DamagedCheckpoint, UnsupportedModel: as `prepare`.
    """
    with tempfile.TemporaryDirectory(prefix="shardnet-") as folder:
        return configs_of(open_header(path), Path(folder))[1]


def open_header(path: Path) -> GgufHeader:
    """What a GGUF file says of itself, within bounds. Imports no torch.

    Raises:
        DamagedCheckpoint, UnsupportedModel: as `prepare`.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UnsupportedModel(f"Reading {path.name} needs the package gguf. Run: pip install gguf")
    header = read_header(path)
    check_head(header)
    return header


def configs_of(header: GgufHeader, folder: Path) -> tuple[dict[str, Any], Any]:
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
    raw.update(attention_of(header, raw) | head_of(header))
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

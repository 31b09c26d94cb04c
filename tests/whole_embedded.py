"""The embedded model as `transformers` reads it from its .gguf file: whole, in one process. Takes 20 seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shardnet.loader.sources import find_embedded


def whole_embedded(dtype: torch.dtype) -> Any:
    """The model itself."""
    from transformers import AutoModelForCausalLM

    path = find_embedded()
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()


def save_whole_embedded(folder: Path, dtype: torch.dtype) -> Path:
    """A folder in Hugging Face layout, with floats; returns it."""
    from transformers import AutoTokenizer

    path = find_embedded()
    model = whole_embedded(dtype)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    return folder

"""The embedded model as `transformers` reads it from its .gguf file: whole, in one process. Takes 20 seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from shardnet.loader import open_model
from shardnet.loader.sources import EMBEDDED_NAME, find_embedded


def whole_embedded(dtype: torch.dtype) -> Any:
    """The model itself."""
    from transformers import AutoModelForCausalLM

    path = find_embedded()
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()


def save_whole_embedded(folder: Path, dtype: torch.dtype) -> Path:
    """A folder in Hugging Face layout, with floats; returns it. `save_pretrained` refuses what came from a .gguf."""
    from safetensors.torch import save_file

    prepared = open_model(EMBEDDED_NAME, str(dtype).removeprefix("torch.")).folder
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns("*.safetensors", "gguf.json"))
    weights = whole_embedded(dtype).state_dict()
    del weights["lm_head.weight"]  # the embedding
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder

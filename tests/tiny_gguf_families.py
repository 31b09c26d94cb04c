"""Tiny models of every family that GGUF files hold, with random weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
from tiny_models import VARIANTS

from shardnet.loader.gguf.header import GgufHeader, read_header
from shardnet.loader.gguf.naming import Naming, naming_of, wanted_shapes
from shardnet.models import Skeleton, build_skeleton

LARGER = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
}


def skeleton_of(variant: str) -> Skeleton:
    """Of the variant, with widths that blocks of 32 divide, and experts in all blocks."""
    from transformers import CONFIG_MAPPING

    family, sizes = VARIANTS[variant]
    wider = {name: size for name, size in LARGER.items() if name in sizes}
    config = CONFIG_MAPPING[family](**sizes | wider | ({"mlp_only_layers": []} if family == "qwen2_moe" else {}))
    return build_skeleton(config, 0, config.num_hidden_layers + 1)


def file_of(path: Path, skeleton: Skeleton, kind: str) -> tuple[GgufHeader, Naming]:
    """A file with random weights: matrices in blocks, all else in F32, as llama.cpp has it."""
    header: Any = SimpleNamespace(path=path)
    naming, shapes = naming_of(header, skeleton.config.to_dict(), skeleton), wanted_shapes(skeleton)
    writer = gguf.GGUFWriter(path, "llama")
    random = np.random.default_rng(0)
    for in_file, name in naming.names.items():
        if name not in shapes:
            continue
        shape = shapes[name]
        if not in_file.endswith((".weight", ".bias")):  # experts, whose gate and up are one tensor of the model
            shape = shape if "down" in in_file else (shape[0], shape[1] // 2, shape[2])
            in_file += ".weight"
        shape = shape[1:] if "shexp" in in_file and shape[0] == 1 else shape
        values = random.standard_normal(shape).astype(np.float32)
        stored = gguf.GGMLQuantizationType[kind if len(shape) > 1 and shape[-1] % 32 == 0 else "F32"]
        writer.add_tensor(in_file, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_header(path), naming

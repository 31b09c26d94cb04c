"""A shard's own weights, and no others, from safetensors and GGUF.

Names are imported when they are first used: what a glance at a model's files rules out is said before torch is
imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardnet.process.first_use import on_first_use

if TYPE_CHECKING:
    from shardnet.loader.copy_index import enter
    from shardnet.loader.files import ModelFiles, open_model, read_tokenizer
    from shardnet.loader.folder import read_config
    from shardnet.loader.generation import Authored, read_authored
    from shardnet.loader.glance import Glance, glance_at, glance_at_once
    from shardnet.loader.hashing import AT_ONCE_BYTES, fingerprint
    from shardnet.loader.sources import ADVICE, find_copy, require_copy
    from shardnet.loader.weights import load_shard

__all__ = [
    "ADVICE",
    "AT_ONCE_BYTES",
    "Authored",
    "Glance",
    "ModelFiles",
    "enter",
    "find_copy",
    "fingerprint",
    "glance_at",
    "glance_at_once",
    "load_shard",
    "open_model",
    "read_authored",
    "read_config",
    "read_tokenizer",
    "require_copy",
]

__getattr__ = on_first_use(
    __name__,
    {
        "enter": "copy_index",
        **dict.fromkeys(("ModelFiles", "open_model", "read_tokenizer"), "files"),
        "read_config": "folder",
        **dict.fromkeys(("Authored", "read_authored"), "generation"),
        **dict.fromkeys(("Glance", "glance_at", "glance_at_once"), "glance"),
        **dict.fromkeys(("AT_ONCE_BYTES", "fingerprint"), "hashing"),
        **dict.fromkeys(("ADVICE", "find_copy", "require_copy"), "sources"),
        "load_shard": "weights",
    },
)

"""A shard's own weights, and no others, from safetensors and GGUF."""

from .files import DEFAULT_CACHE, ModelFiles, open_model, read_tokenizer
from .folder import read_config
from .glance import Glance, glance_at
from .weights import load_shard

__all__ = [
    "DEFAULT_CACHE",
    "Glance",
    "ModelFiles",
    "glance_at",
    "load_shard",
    "open_model",
    "read_config",
    "read_tokenizer",
]

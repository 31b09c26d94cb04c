"""A shard's own weights, and no others, from safetensors and GGUF."""

from .copy_index import enter
from .files import DEFAULT_CACHE, ModelFiles, open_model, read_tokenizer
from .folder import read_config
from .glance import Glance, glance_at
from .hashing import AT_ONCE_BYTES, fingerprint
from .sources import ADVICE, find_copy, require_copy
from .weights import load_shard

__all__ = [
    "ADVICE",
    "AT_ONCE_BYTES",
    "DEFAULT_CACHE",
    "Glance",
    "ModelFiles",
    "enter",
    "find_copy",
    "fingerprint",
    "glance_at",
    "load_shard",
    "open_model",
    "read_config",
    "read_tokenizer",
    "require_copy",
]

"""GGUF files, converted once into a folder of safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def convert(path: Path, dtype: str, cache_dir: Path, progress: Callable[[str, float, float], None] | None) -> Path:
    raise NotImplementedError

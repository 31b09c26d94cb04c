"""A device process that cannot import what a light device does without: run by hand, or with `python -c LIGHT_MAIN`."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

FORBIDDEN = (
    "transformers",
    "tokenizers",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "sympy",
    "typer",
    "rich",
    "pulp",
    "torch._refs",
)
"""Of these, torch itself has sympy for what no device does, and the last one for the meta device."""


class Forbids(MetaPathFinder):
    """What is forbidden is as if it were not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in FORBIDDEN or name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main() -> int:
    """As `shardnet.device.process`."""
    sys.meta_path.insert(0, Forbids())
    from shardnet.device.process import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())

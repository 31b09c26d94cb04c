"""What a light device needs beside Python: the one list of it. Imports none of it.

A device computes with torch and numpy, asks psutil for its memory and cryptography for its certificates; these have
compiled parts, and come from a phone's own packages. All else is pure Python, and is installed without what it would
like to have besides (`pip install --no-deps`).
"""

from __future__ import annotations

import importlib.util

from shardnet.errors import UsageError

COMPILED = ("torch", "numpy", "psutil", "cryptography")
"""As pip calls them, and Python."""
TERMUX = tuple(f"python-{name}" for name in COMPILED)
"""The packages of Termux that bring them."""
TYPER = "typer~=0.28.0"
"""The next one asks for pydantic, which compiles Rust."""
PURE = (TYPER, "annotated-doc", "shellingham", "rich", "pygments", "markdown-it-py", "mdurl", "spake2")
"""For the commands of `shardnet`, and for joining by a short code; as pip calls them."""
TORCH_NEEDS = (
    "cffi", "pycparser", "filelock", "fsspec", "jinja2", "MarkupSafe", "networkx", "sympy", "mpmath",
    "typing-extensions",
)  # fmt: skip
"""For torch and cryptography from pip; a phone's own packages bring them along."""


def missing() -> list[str]:
    """What of COMPILED is not installed."""
    return [name for name in COMPILED if importlib.util.find_spec(name) is None]


def require_light_set() -> None:
    """Raise where this machine lacks what every device needs.

    Raises:
        UsageError
    """
    lacking = missing()
    in_termux = [package for name, package in zip(COMPILED, TERMUX) if name in lacking]
    if lacking:
        raise UsageError(
            f"A device needs {', '.join(COMPILED)}, and here {_are(lacking)} not installed. "
            f"Run: pip install {' '.join(lacking)}; in Termux: pkg install {' '.join(in_termux)}"
        )


def _are(names: list[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"

"""How the script is run: the command of a process, and whether there is such a script at all."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.launch.launcher.asked import Asked

PYTHON = "PYTHON_EXEC"
"""A variable by which another Python is named, as with torchrun."""
_RUN_PATH = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def command_of(asked: Asked, local_rank: int, environment: Mapping[str, str]) -> list[str]:
    """What runs the script. In its arguments, ${local_rank} is the process's own, as with torchrun."""
    arguments = [Template(each).safe_substitute(local_rank=local_rank) for each in asked.arguments]
    python = environment.get(PYTHON) or sys.executable
    before = {
        "file": [python, "-u"],
        "module": [python, "-u", "-m"],
        "program": [],
        "run_path": [python, "-u", "-c", _RUN_PATH],
    }
    return [*before[asked.kind], asked.script, *arguments]


def require_script(asked: Asked) -> None:
    """
    Raises:
        BadRequest: there is nothing of that name to run. A program is looked for when it is started.
    """
    if asked.kind == "module":
        _require_module(asked.script)
    elif asked.kind != "program":
        _require_file(Path(asked.script))


def _require_file(script: Path) -> None:
    if script.is_dir() and not Path(script, "__main__.py").exists():
        raise BadRequest(f"{script} is a folder without __main__.py. Name a script in it.")
    if not script.exists():
        raise BadRequest(f"There is no script {quoted(str(script))}. For a module, put -m before its name.")


def _require_module(name: str) -> None:
    """Imports the packages around it, as Python does before it runs it."""
    if not getattr(sys.flags, "safe_path", False):  # since Python 3.11
        sys.path[0] = os.getcwd()
    try:
        found = importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        found = False
    if not found:
        raise BadRequest(f"There is no module {quoted(name)}.")

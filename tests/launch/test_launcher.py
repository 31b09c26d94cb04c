"""What `shardnet-run` does before and around its script, without devices."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shardnet.launch.launcher import script


@pytest.mark.parametrize("is_safe", [False, True])
def test_the_scripts_folder_comes_first_unless_python_was_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_safe: bool
) -> None:
    """With PYTHONSAFEPATH the script's folder took the place of the standard library's."""
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=sys.flags.optimize, safe_path=is_safe))
    monkeypatch.setattr(sys, "path", ["first", *sys.path])
    monkeypatch.setattr(sys, "argv", ["shardnet-run"])
    (tmp_path / "script.py").write_text("import sys\nsys.exit(sys.path[0])\n")
    with pytest.raises(SystemExit) as ended:
        script._run_script(str(tmp_path / "script.py"), [], is_module=False)
    assert ended.value.code == ("first" if is_safe else str(tmp_path))

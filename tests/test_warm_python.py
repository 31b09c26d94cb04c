"""What stands for a fresh Python in other tests behaves as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import is_over, wait_until
from warm_python import WARM_PYTHON

pytestmark = pytest.mark.usefixtures("warm_python")

SCRIPT = """
import os, sys
print(__name__, sys.argv, os.getcwd(), os.environ["FOUND"], sys.path[0], sys.stdin.read())
print(sorted(map(int, os.listdir("/proc/self/fd")))[:3], file=sys.stderr)
"""


MOVE = """
import os, sys
os.dup2(int(sys.argv[1]), int(sys.argv[2]))
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.mark.parametrize("arguments", [["-c", SCRIPT, "a", "b c"], ["script.py", "a"], ["-m", "script", "a"]])
def test_it_does_what_python_does(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)

    def outcome(python: Sequence[str]) -> tuple[int, str, str]:
        environment = os.environ | {"FOUND": "here"}
        done = subprocess.run(
            [*python, *arguments], input="said", cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        first, _, rest = done.stdout.partition(" ")
        return done.returncode, f"{first} {rest}".replace(f"{tmp_path}/script.py", "script.py"), done.stderr

    warm, fresh = outcome(WARM_PYTHON), outcome([sys.executable])
    if arguments[0] == "-c":  # there, a fresh one has no name for its folder
        fresh = fresh[0], fresh[1].replace("  said", f" {tmp_path} said"), fresh[2]
    assert warm == fresh


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import atexit, os; atexit.register(os.write, 2, b'bye')", 0, "bye"),
        ("import sys; assert sys.stdout is None", 0, ""),
    ],
)
def test_it_ends_as_python_does(program: str, code: int, said: str) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "-", *WARM_PYTHON, "-c", program]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("number", [3, 199, 200, 203, 500])
def test_it_has_the_files_of_any_number(number: int) -> None:
    """Four numbers were closed again that were in use meanwhile: a device had no pipe to end with."""
    reading, writing = os.pipe()
    program = f"import os, sys; sys.stdout.write(os.read({number}, 9).decode())"
    command = [sys.executable, "-c", MOVE, str(reading), str(number), *WARM_PYTHON, "-c", program]
    os.write(writing, b"through")
    done = subprocess.run(command, pass_fds=[reading], capture_output=True, text=True, timeout=60, check=False)
    for end in (reading, writing):
        os.close(end)
    assert done.stdout == "through", done.stderr


WAITING = "import os, signal; print(os.getpid(), flush=True); signal.pause()"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_it(number: signal.Signals) -> None:
    with subprocess.Popen([*WARM_PYTHON, "-c", WAITING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(20) == -number
    wait_until(lambda: is_over(pid))

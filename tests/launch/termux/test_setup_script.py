"""The script that sets up a phone, run by a plain shell in a made-up Termux and a made-up Debian, with the wheel from a
real server: what it would install, and what it refuses."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import wait_until
from warm_python import WARM_PYTHON

from shardnet.launch.termux.script import script_for
from shardnet.launch.termux.wheel import make_wheel
from shardnet.process.light_set import PURE, TERMUX

SHELL = shutil.which("dash") or "/bin/sh"
SYSTEM = (
    "cat",
    "chmod",
    "cp",
    "curl",
    "dirname",
    "basename",
    "mkdir",
    "rm",
    "sed",
    "sha256sum",
    "sleep",
    "id",
    "uname",
)


class MadeUpPhone:
    """A folder with programs that note how they were called: all that a script finds on the path."""

    def __init__(self, folder: Path, *, has_termux: bool) -> None:
        self.home, self.prefix, self.notes = folder / "home", folder / "com.termux" / "usr", folder / "notes"
        self.bin = self.prefix / "bin"
        self.bin.mkdir(parents=True)
        self.home.mkdir()
        self.notes.write_text("")
        for name in SYSTEM:
            found = shutil.which(name)
            assert found, name
            (self.bin / name).symlink_to(found)
        (self.bin / "sh").symlink_to(SHELL)
        self.environment = {"PATH": str(self.bin), "HOME": str(self.home)}
        if has_termux:
            self.environment["PREFIX"] = str(self.prefix)

    def add(self, name: str, script: str = "") -> None:
        program = self.bin / name
        program.write_text(f'#!{SHELL}\necho "{name} $*" >>"{self.notes}"\n{script}\n')
        program.chmod(0o755)

    def called(self) -> list[str]:
        return self.notes.read_text().splitlines()

    def run(self, *arguments: str, line: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [SHELL, *arguments] if line is None else [SHELL, "-c", line]
        return subprocess.run(
            command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def termux(tmp_path: Path) -> MadeUpPhone:
    phone = MadeUpPhone(tmp_path, has_termux=True)
    for name in ("pkg", "pip"):
        phone.add(name)
    return phone


def written(phone: MadeUpPhone) -> Path:
    made = make_wheel()
    (phone.home / made.name).write_bytes(made.content)
    (phone.home / "setup.sh").write_bytes(script_for(made))
    return phone.home / made.name


def test_the_script_is_sound() -> None:
    """As far as a shell, and shellcheck where it is installed, can tell."""
    script = Path(__file__).parent.parent.parent.parent / "launch" / "termux" / "setup.sh"
    subprocess.run([SHELL, "-n", str(script)], check=True)
    shellcheck = shutil.which("shellcheck")
    if shellcheck:
        subprocess.run([shellcheck, "--shell=sh", str(script)], check=True)


def test_termux_gets_its_own_packages_and_the_light_set(termux: MadeUpPhone) -> None:
    wheel = written(termux)
    done = termux.run("setup.sh")
    assert done.returncode == 0, done.stderr
    assert termux.called() == [
        f"pkg install -y python python-pip {' '.join(TERMUX)}",
        f"pip install --no-deps --upgrade {' '.join(PURE)}",
        f"pip install --no-deps --force-reinstall {wheel}",
    ]
    assert "shardnet join CODE" in done.stdout
    assert not (termux.home / ".termux").exists()


def test_a_start_with_the_phone_hands_on_its_options(termux: MadeUpPhone) -> None:
    written(termux)
    assert termux.run("setup.sh", "--at-boot", "--name", "my phone's", "--min-battery", "30").returncode == 0
    for name in ("termux-wake-lock", "shardnet"):
        termux.add(name, 'for each; do echo "  $each" >>"$HOME/arguments"; done')
    boot = termux.home / ".termux" / "boot" / "shardnet"
    assert os.access(boot, os.X_OK)
    assert termux.run(str(boot)).returncode == 0
    assert termux.called()[-2].strip() == "termux-wake-lock" and termux.called()[-1].startswith("shardnet join --name")
    assert (termux.home / "arguments").read_text().splitlines() == [
        *("  join", "  --name", "  my phone's", "  --min-battery", "  30"),
    ]
    assert (termux.home / "shardnet-join.log").exists()


def test_debian_under_proot_runs_the_same_script_inside(termux: MadeUpPhone) -> None:
    wheel = written(termux)
    termux.add("proot-distro", '[ "$*" != "login debian -- true" ]')
    done = termux.run("setup.sh", "--debian", "--at-boot")
    assert done.returncode == 0, done.stderr
    assert termux.called() == [
        "pkg install -y proot-distro",
        "proot-distro login debian -- true",
        "proot-distro install debian",
        f"proot-distro login debian --bind {termux.home}:/root/shardnet-setup -- sh /root/shardnet-setup/setup.sh",
    ]
    assert wheel.exists()
    assert termux.run(str(termux.bin / "shardnet"), "join", "a b").returncode == 0
    assert termux.called()[-1] == "proot-distro login debian -- /root/.shardnet/bin/shardnet join a b"
    assert f"exec {termux.bin}/shardnet join" in (termux.home / ".termux" / "boot" / "shardnet").read_text()


@pytest.mark.parametrize(("machine", "torch"), [("aarch64", "torch>=2.8,<2.11"), ("x86_64", "torch")])
def test_a_board_gets_an_environment_of_its_own(tmp_path: Path, machine: str, torch: str) -> None:
    board = MadeUpPhone(tmp_path, has_termux=False)
    wheel = written(board)
    (board.bin / "uname").unlink()
    board.add("uname", f"echo {machine}")
    pip = f'#!{SHELL}\\necho "pip $*" >>"{board.notes}"\\n'
    board.add(
        "python3", f'[ "$1" = -c ] || {{ mkdir -p "$3/bin"; printf \'{pip}\' >"$3/bin/pip"; chmod +x "$3/bin/pip"; }}'
    )
    done = board.run("setup.sh")
    assert done.returncode == 0, done.stderr
    assert [each for each in board.called() if each.startswith("pip")] == [
        f"pip install {torch} numpy psutil cryptography",
        f"pip install --no-deps --upgrade {' '.join(PURE)}",
        f"pip install --no-deps --force-reinstall {wheel}",
    ]
    assert f"{board.home}/.shardnet/bin/shardnet join CODE" in done.stdout
    refused = board.run("setup.sh", "--at-boot")
    assert refused.returncode == 1 and "--at-boot is for Termux" in refused.stderr


def test_a_damaged_wheel_is_refused(termux: MadeUpPhone) -> None:
    wheel = written(termux)
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    done = termux.run("setup.sh")
    assert done.returncode == 1 and "is damaged" in done.stderr and termux.called() == []
    assert termux.run("setup.sh", "--what").returncode == 1


def test_the_line_on_the_screen_sets_up_a_phone(termux: MadeUpPhone, tmp_path: Path, warm_python: None) -> None:
    log = tmp_path / "served"
    with open(log, "w") as output:
        serving = subprocess.Popen(
            [*WARM_PYTHON, "-m", "shardnet.launch.cli", "wheel", "--serve", "--listen", "127.0.0.1:0"], stdout=output
        )
    try:
        wait_until(lambda: "Ctrl-C ends this" in log.read_text())
        [line] = [each for each in log.read_text().splitlines() if each.startswith("curl ")]
        done = termux.run(line=line)
        assert done.returncode == 0, done.stderr
        [wheel] = termux.home.glob("*.whl")
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() == make_wheel().sha256
        assert termux.called()[-1] == f"pip install --no-deps --force-reinstall {wheel}"
        wait_until(lambda: log.read_text().count("127.0.0.1 has fetched") == 2)
        changed = line.replace('echo "', 'echo "0')
        before = termux.called()
        assert termux.run(line=changed).returncode != 0 and termux.called() == before
    finally:
        serving.terminate()
        code = serving.wait(30)
    assert code == 0
    (termux.home / wheel.name).unlink()
    away = termux.run("setup.sh")
    assert away.returncode == 1 and "does not answer" in away.stderr

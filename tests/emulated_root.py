"""A Debian for arm64 machines in a folder, whose programs run here under user-mode emulation (QEMU). Needs root.

    python tests/emulated_root.py ROOT [--torch 2.8.0]

Made once, in some minutes, and kept: what was begun and not finished is made anew. It has Python and the light set,
wheels for arm64 that are unpacked from here; shardnet itself is installed by whoever uses it, for each use.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from shardnet.process.light_set import COMPILED, PURE, TORCH_NEEDS

SUITE, PYTHON, NEWEST_GLIBC = "bookworm", "3.11", 36
"""Of Debian: which one, and its Python and glibc (2.36)."""
BINFMT = Path("/proc/sys/fs/binfmt_misc")
EMULATOR = "qemu-aarch64"
RULE = Path("/usr/lib/binfmt.d", f"{EMULATOR}.conf")
PROCESSOR = "cortex-a76"
"""A core of phones and boards of 2019 and later: NEON, dot products and fp16, no SVE and no bf16."""
PACKAGES = "opt/packages"
"""In the root: what pip has unpacked."""
LISTED = "packages.txt"
"""In it, when all are there: which."""
_ENTER = """
root=$1 home=$2
shift 2
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount --bind "$home" "$root/mnt"
set -- PATH=/usr/bin:/bin HOME=/mnt TMPDIR=/mnt LANG=C.UTF-8 OMP_NUM_THREADS=1 "$@"
exec chroot "$root" /usr/bin/env -i QEMU_CPU="$0" "$@"
"""


class CannotBeHad(Exception):
    """Something is missing here; the message is one sentence that says what to do."""


def require_emulation() -> None:
    """See that programs for arm64 can be run here.

    Raises:
        CannotBeHad
    """
    if os.geteuid() != 0:
        raise CannotBeHad("An emulated arm64 machine needs root: for chroot, mounts and network namespaces.")
    if not RULE.exists():
        raise CannotBeHad("There is no QEMU for arm64 programs here. Run: apt-get install qemu-user-static")
    try:
        if not (BINFMT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True, capture_output=True)
        if not (BINFMT / EMULATOR).exists():
            (BINFMT / "register").write_bytes(RULE.read_bytes())
    except (OSError, subprocess.CalledProcessError) as cause:
        raise CannotBeHad(
            f"This kernel cannot be told to run programs for arm64 by QEMU (binfmt_misc): {cause}."
        ) from cause


def why_not(root: Path) -> str | None:
    """Why there is no such machine in a folder; None where there is one."""
    if not (root / PACKAGES / LISTED).exists():
        return f"there is no arm64 machine in {root}: make test-arm64 makes one"
    try:
        require_emulation()
    except CannotBeHad as error:
        return str(error)
    return None


def entered(root: Path, home: Path, *command: str) -> list[str]:
    """A command as it runs on that machine. What it mounts there is seen by nobody else, and gone with it.

    Args:
        home: of this machine, its home folder and folder for temporary files there, which it calls /mnt.
    """
    return ["unshare", "--mount", "sh", "-ec", _ENTER, PROCESSOR, str(root), str(home), *command]


def install(root: Path, wheel: Path, folder: str) -> None:
    """Unpack a wheel of pure Python into a folder of that machine, in place of what was there."""
    shutil.rmtree(root / folder, ignore_errors=True)
    _pip(["install", "--target", str(root / folder), "--no-deps", str(wheel)])


def make_debian(root: Path) -> None:
    """Debian's smallest set and Python.

    Raises:
        CannotBeHad
    """
    if shutil.which("debootstrap") is None:
        raise CannotBeHad("There is no debootstrap here. Run: apt-get install debootstrap")
    half = root.with_name(f"{root.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    first = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", "--include=python3,libgomp1", SUITE]
    log = half.with_suffix(".log")
    _run([*first, str(half)], log, "Fetching Debian for arm64")
    _run(["chroot", str(half), "/debootstrap/debootstrap", "--second-stage"], log, "Setting it up, emulated")
    shutil.rmtree(half / "var/cache/apt", ignore_errors=True)
    half.rename(root)


def install_light_set(root: Path, torch: str) -> None:
    """What a light device needs, but for shardnet: wheels for arm64, unpacked from here, as pip would be slow there.

    Raises:
        CannotBeHad
    """
    wanted = [f"torch=={torch}", *(name for name in (*COMPILED, *PURE, *TORCH_NEEDS) if name != "torch")]
    folder = root / PACKAGES
    if (folder / LISTED).exists() and (folder / LISTED).read_text() == "\n".join(wanted):
        return
    print(f"Installing the light set for arm64, with torch {torch}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, NEWEST_GLIBC + 1)]
    there = [*platforms, "--platform=manylinux2014_aarch64", f"--python-version={PYTHON}", "--only-binary=:all:"]
    try:
        _pip(["install", "--target", str(folder), "--no-deps", *there, *wanted])
    except subprocess.CalledProcessError as cause:
        raise CannotBeHad(f"The wheels for arm64 cannot be had: {_last_line(cause.stderr)}") from cause
    (folder / LISTED).write_text("\n".join(wanted))


def _pip(arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)


def _run(command: Sequence[str], log: Path, what: str) -> None:
    """Run it, and show its last line where somebody looks.

    Raises:
        CannotBeHad
    """
    print(what, flush=True)
    line = ""
    with open(log, "a") as kept, subprocess.Popen(command, stdout=-1, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            kept.write(line)
            if sys.stdout.isatty():
                print(f"\r\033[K  {line.strip()[:76]}", end="", flush=True)
    if sys.stdout.isatty():
        print("\r\033[K", end="")
    if process.returncode:
        raise CannotBeHad(f"{command[0]} has failed: {line.strip()} All that it said is in {log}.")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "pip said nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--torch", default="2.8.0", help="on arm64, up to 2.10 without CUDA (default: %(default)s)")
    given = parser.parse_args()
    try:
        require_emulation()
        if not given.root.exists():
            make_debian(given.root.absolute())
        install_light_set(given.root.absolute(), given.torch)
    except CannotBeHad as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

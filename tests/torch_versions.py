"""Runs the elastic group, a ring and the light device with several versions of torch, and in a ring of all of them.

    python tests/torch_versions.py --cache DIR 2.8.0 2.11.0

Beside these the version of this environment. Each other one gets an environment of its own in DIR, once: on x86-64, pip
has CUDA builds of most, which take 5 to 7 GB each. Prints a table, and ends with 1 where something failed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
GROUPS = {
    "elastic group": ("tests/integration/test_elastic_rpc.py", "tests/integration/test_door_processes.py"),
    "ring": ("tests/integration/test_generation.py",),
    "light device": ("tests/integration/test_light_worker.py",),
}
MIXED = "tests/versions"
PYTHONS = "SHARDNET_TEST_PYTHONS"
"""For the tests in MIXED: VERSION=PYTHON, separated by colons."""


def environment_of(torch: str, folder: Path) -> Path | None:
    """Its Python, in an environment that is made where there is none; None where it cannot be had, which is said."""
    python, ready = folder / "bin" / "python", folder / "ready.txt"
    setup = hashlib.sha256((ROOT / "setup.py").read_bytes()).hexdigest()
    wanted = f"{torch}\n{ROOT}\n{setup}\n"
    if ready.exists() and ready.read_text() == wanted:
        return python
    print(f"Installing torch {torch} into {folder}; this takes minutes", flush=True)
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", *quiet, f"torch=={torch}"],
        [str(python), "-m", "pip", "install", *quiet, "-e", f"{ROOT}[all,dev]"],
    ):
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["nothing was said"]
            print(f"torch {torch} cannot be had here: {lines[-1]}", flush=True)
            return None
    ready.write_text(wanted)
    return python


def tried(python: Path, *arguments: str, given: Mapping[str, str] | None = None) -> tuple[bool, str]:
    """Whether some tests pass with a Python, and how many."""
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(given or {})}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-8000:], done.stderr[-2000:], sep="\n", flush=True)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "nothing was said"
    return done.returncode == 0, last.strip("= ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", help="of torch, beside this environment's")
    parser.add_argument("--cache", type=Path, required=True, help="where the environments are")
    given = parser.parse_args()
    import torch

    own = torch.__version__.partition("+")[0]
    made = {each: environment_of(each, (given.cache / f"torch-{each}").absolute()) for each in given.versions}
    pythons = {each: python for each, python in made.items() if python is not None}
    pythons[own] = Path(sys.executable)
    rows, are_fine = [], len(pythons) == len(made) + 1
    for version, python in pythons.items():
        cells = []
        for name, files in GROUPS.items():
            print(f"torch {version}: {name}", flush=True)
            passed, said = tried(python, *files)
            are_fine &= passed
            cells.append(said)
        rows.append(f"| {version} | {' | '.join(cells)} |")
    print("all of them in one ring", flush=True)
    named = ":".join(f"{version}={python}" for version, python in pythons.items())
    passed, said = tried(Path(sys.executable), "-m", "versions", MIXED, given={PYTHONS: named})
    print(f"\n| torch | {' | '.join(GROUPS)} |", "|---|" + "---|" * len(GROUPS), *rows, sep="\n")
    print(f"\nIn one ring ({', '.join(pythons)}): {said}")
    sys.exit(0 if are_fine and passed else 1)


if __name__ == "__main__":
    main()

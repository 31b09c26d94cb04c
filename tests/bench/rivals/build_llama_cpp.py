"""Builds llama.cpp's benchmarks and its RPC server for this processor, once, from the package llama-cpp-python.

    python tests/bench/rivals/build_llama_cpp.py FOLDER [--source llama_cpp_python-VERSION.tar.gz] [--jobs 1]

What is made stays in FOLDER: the sources, `build/bin`, what pip has downloaded. Needs cmake, make and a C++ compiler.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
"""Of the package: where llama.cpp lies in it."""
UNUSED = ("models/", "docs/", "media/", "tests/", "tools/ui/")
"""Of llama.cpp: 120 MB that these programs are not built from."""
PROGRAMS = ("llama-bench", "llama-batched-bench", "ggml-rpc-server")
SETTINGS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "GGML_RPC": "ON",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_OPENSSL": "OFF",
}


class CannotBeBuilt(Exception):
    """The message is one sentence that says why."""


def programs_in(folder: Path) -> dict[str, Path] | None:
    """The programs by their names; None where they were not all built."""
    found = {name: folder / "build" / "bin" / name for name in PROGRAMS}
    return found if all(path.is_file() for path in found.values()) else None


def build(folder: Path, source: Path | None, num_jobs: int) -> None:
    """Download, unpack, configure, make; what was done stays done.

    Raises:
        CannotBeBuilt
    """
    for tool in ("cmake", "make", "c++"):
        if shutil.which(tool) is None:
            raise CannotBeBuilt(f"llama.cpp is built with {tool}, which is not installed. Install it, and try again.")
    folder.mkdir(parents=True, exist_ok=True)
    sources, log = folder / "source", folder / "build.log"
    if not (sources / "CMakeLists.txt").exists():
        unpack(source or downloaded(folder / "package", log), sources)
    settings = [f"-D{name}={value}" for name, value in SETTINGS.items()]
    run(["cmake", "-S", str(sources), "-B", str(folder / "build"), *settings], log)
    run(["make", "-C", str(folder / "build"), f"-j{num_jobs}", *PROGRAMS], log)


def downloaded(folder: Path, log: Path) -> Path:
    """The source package, by its name from wherever pip is told to look."""
    package = ["--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}"]
    run([sys.executable, "-m", "pip", "download", "--no-input", "--dest", str(folder), *package], log)
    return next(folder.glob("*.tar.gz"))


def unpack(package: Path, sources: Path) -> None:
    """What is needed of llama.cpp, whole or not at all."""
    begun = sources.with_name("unpacking")
    shutil.rmtree(begun, ignore_errors=True)
    with tarfile.open(package) as archive:
        for member in archive:
            name = member.name.removeprefix(INSIDE)
            if member.isfile() and name != member.name and not name.startswith(UNUSED):
                member.name = name
                archive.extract(member, begun, set_attrs=False)
    if not (begun / "CMakeLists.txt").exists():
        raise CannotBeBuilt(f"{package} does not hold {INSIDE}. Give the source package of {PACKAGE} {VERSION}.")
    begun.rename(sources)


def run(command: Sequence[str], log: Path) -> None:
    with open(log, "ab") as output:
        if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode:
            raise CannotBeBuilt(f"{' '.join(command[:4])} failed; {log} says why.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, help="the source package; without it pip downloads it")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    if programs_in(options.folder) is None:
        print(f"Building llama.cpp in {options.folder}; this takes minutes", flush=True)
        try:
            build(options.folder, options.source, options.jobs)
        except CannotBeBuilt as error:
            print(error, file=sys.stderr)
            return 1
    print(f"llama.cpp is in {options.folder / 'build' / 'bin'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

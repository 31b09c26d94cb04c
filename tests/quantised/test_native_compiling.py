"""How the library of the products is made and kept: several at once, and with nothing that it needs."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardnet.quantised.native import compiling
from shardnet.quantised.native.compiling import Library, WhyNot, library

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(not COMPILER, reason="there is no C compiler")
TRIALS = Path(__file__).parent / "native_trials.c"
OPEN = """
import sys
from pathlib import Path
from shardnet.quantised.native.compiling import library
print(getattr(library(Path(sys.argv[1])), "reason", "there"))
"""


def kept_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def made_in(folder: Path | None) -> Library:
    made = library(folder)
    assert isinstance(made, Library), made
    return made


def compiler_that_says(folder: Path, script: str) -> None:
    """A `cc`, and no other compiler, in a folder."""
    folder.mkdir()
    (folder / "cc").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "cc").chmod(0o755)


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without optimisation, which takes most of the time."""
    monkeypatch.setattr(compiling, "FLAGS", (*compiling.FLAGS, "-O0"))


@needs_compiler
@pytest.mark.usefixtures("in_haste")
def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache" / "native"
    first = made_in(folder)
    assert first.loaded.shardnet_trial() == 0 and not first.why_not_kept
    assert folder.stat().st_mode & 0o777 == 0o700
    (name,) = kept_in(folder)
    monkeypatch.setattr(compiling, "_compile", None)
    assert made_in(folder).loaded._name == str(folder / name)


@needs_compiler
def test_another_source_or_processor_is_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = os.path.realpath(str(COMPILER))
    before = compiling._key(compiler)
    monkeypatch.setattr(compiling, "_processor", lambda: ["flags : none"])
    assert compiling._key(compiler) != before


@needs_compiler
def test_several_processes_compile_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN, str(tmp_path / "native")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=200)[0].strip() for process in processes] == ["there"] * 2
    assert len(kept_in(tmp_path / "native")) == 1


@needs_compiler
@pytest.mark.usefixtures("in_haste")
def test_a_damaged_library_is_made_anew(tmp_path: Path) -> None:
    """The loader maps more than is there: a part of one ended the process by a signal."""
    file = Path(made_in(tmp_path).loaded._name)
    content = file.read_bytes()
    for part in (0, len(content) // 2):
        file.unlink()  # what is loaded here keeps its own
        file.write_bytes(content[:part])
        file.chmod(0o600)
        in_haste = f"from shardnet.quantised.native import compiling; compiling.FLAGS = {compiling.FLAGS}\n"
        command = [sys.executable, "-c", in_haste + OPEN, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.stdout == "there\n", done
        assert kept_in(tmp_path) == [file.name] and file.read_bytes() == content


@needs_compiler
@pytest.mark.usefixtures("in_haste")
def test_what_others_can_write_is_not_loaded(tmp_path: Path) -> None:
    file = Path(made_in(tmp_path).loaded._name)
    file.chmod(0o666)
    assert made_in(tmp_path).loaded._name == str(file)
    assert file.stat().st_mode & 0o777 == 0o600


Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Folders in memory of their own, mounted with options."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"mounted-{len(mounted)}"
        folder.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.root
@needs_compiler
@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize(
    ("options", "reason"),
    [("noexec,size=16m", "failed to map"), ("size=16k", "No space left"), ("ro,size=16m", "Read-only file system")],
)
def test_a_cache_folder_in_which_nothing_can_be_kept(mount: Mount, options: str, reason: str) -> None:
    """There was no library then, where nothing may be run from it, or it is full."""
    made = made_in(mount(options))
    assert made.loaded.shardnet_trial() == 0
    assert reason in made.why_not_kept


@pytest.mark.root
@needs_compiler
@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize("options", ["noexec,size=16m", "size=16k"])
def test_temporary_files_in_a_place_that_does_not_do(
    mount: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """The compiler has its own there, too."""
    folder = mount(options)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    made = made_in(tmp_path / "native")
    assert made.loaded._name.startswith(str(tmp_path / "native")) and not made.why_not_kept
    assert kept_in(folder) == [] and len(kept_in(tmp_path / "native")) == 1
    none = library(None)
    assert isinstance(none, WhyNot) and re.search("cannot be loaded: .*failed to map|could not compile", none.reason)


@needs_compiler
@pytest.mark.usefixtures("in_haste")
def test_no_place_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    made = made_in(tmp_path / "native")
    assert made.loaded.shardnet_trial() == 0 and not made.why_not_kept


@needs_compiler
@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("no folder", "there is no cache folder"),
        ("others may write", "is not a folder of this user that nobody else can write"),
        ("a file is in its way", "File exists"),
    ],
)
def test_where_it_cannot_be_kept_it_is_for_this_process(tmp_path: Path, trouble: str, reason: str) -> None:
    folder: Path | None = tmp_path / "native"
    if trouble == "no folder":
        folder = None
    elif trouble == "others may write":
        (tmp_path / "native").mkdir(mode=0o777)
        (tmp_path / "native").chmod(0o777)
    else:
        (tmp_path / "native").write_text("")
    made = made_in(folder)
    assert made.loaded.shardnet_trial() == 0
    assert not Path(made.loaded._name).exists()
    assert reason in made.why_not_kept
    assert not (tmp_path / "native").is_dir() or kept_in(tmp_path / "native") == []


@needs_compiler
def test_a_full_disk_is_a_reason(tmp_path: Path) -> None:
    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path)], capture_output=True, text=True, timeout=200, preexec_fn=fill
    )
    assert "could not compile" in done.stdout, done.stderr
    assert kept_in(tmp_path) == []


def test_no_compiler_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert library(tmp_path) == WhyNot("There is no C compiler: none of cc, gcc, clang is in PATH.")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'no space left on device' >&2; exit 1", "no space left on device"),
        ("exit 3", "exit status 3"),
        ("exit 0", "cannot be loaded: .*No such file"),
        ("exec /nowhere/at/all", "could not compile"),
    ],
)
def test_a_compiler_that_fails_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    compiler_that_says(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    made = library(tmp_path / "native")
    assert isinstance(made, WhyNot) and re.search(reason, made.reason)
    assert kept_in(tmp_path / "native") == []


@needs_compiler
@pytest.mark.parametrize("body", ["return 1;", "__builtin_trap();"])
def test_a_library_that_reckons_wrong_or_dies_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    (tmp_path / "wrong.c").write_text(f"int shardnet_trial(void) {{ {body} }}")
    script = f'while [ "$1" != -o ]; do shift; done; exec {COMPILER} -shared -fPIC {tmp_path}/wrong.c -o "$2"'
    path = os.environ["PATH"]
    compiler_that_says(tmp_path / "bin", f"PATH={path}; {script}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    made = library(tmp_path / "native")
    assert isinstance(made, WhyNot) and "do not run on this processor" in made.reason
    assert kept_in(tmp_path / "native") == []


def run_trials(tmp_path: Path, compiler: list[str], flags: str, emulator: list[str]) -> str:
    """What the trials print, compiled with these flags."""
    sources = [str(compiling.HERE / name) for name in compiling.COMPILED]
    program = tmp_path / "trials"
    command = [*compiler, "-std=c11", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", *flags.split()]
    command += [f"-I{compiling.HERE}", *sources, str(TRIALS), "-lm", "-o", str(program)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=250)
    if "cannot find -lasan" in made.stderr or "unrecognized command" in made.stderr:
        pytest.skip(made.stderr.splitlines()[0])
    assert made.returncode == 0, made.stderr
    done = subprocess.run([*emulator, str(program)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def flags_of_processor() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())


@needs_compiler
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    flags = "-march=native -g -fsanitize=address,undefined -fno-sanitize-recover"
    assert "0 of" in run_trials(tmp_path, [str(COMPILER)], flags, [])


@needs_compiler
@pytest.mark.parametrize(
    ("way", "flags", "needed"),
    [
        ("plain", "-mno-avx", {"sse2"}),
        ("avx2", "-mavx2 -mfma -mf16c", {"avx2", "fma", "f16c"}),
        ("avx-vnni", "-mavx512vnni -mavx512vl -mavx2 -mfma -mf16c -mno-avx512bw", {"avx512_vnni", "avx512vl"}),
    ],
)
def test_other_ways_than_that_of_this_processor(tmp_path: Path, way: str, flags: str, needed: set[str]) -> None:
    if not needed <= flags_of_processor():
        pytest.skip(f"this processor has no {', '.join(sorted(needed))}")
    assert run_trials(tmp_path, [str(COMPILER)], flags, []).startswith(f"{way}: 0 of")


@pytest.mark.parametrize(("way", "processor"), [("neon-dotprod", "cortex-a76"), ("neon", "cortex-a53")])
def test_the_ways_of_arm_under_emulation(tmp_path: Path, way: str, processor: str) -> None:
    """Cross-compiled by GCC or by zig (`pip install ziglang`), and run by QEMU, where these are."""
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    gcc, zig = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("zig")
    if not emulator or not (gcc or zig):
        pytest.skip("needs qemu-user-static, and gcc-aarch64-linux-gnu or zig")
    compiler = [gcc] if gcc else [str(zig), "cc", "-target", "aarch64-linux-musl"]
    name = processor if gcc else processor.replace("-", "_")
    out = run_trials(tmp_path, compiler, f"-static -mcpu={name}", [emulator, "-cpu", "max"])
    assert out.startswith(f"{way}: 0 of")

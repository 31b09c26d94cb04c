"""What `shardnet-run` does: starts devices, runs a script in this very process, ends the devices with it."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import runpy
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from shardnet.cluster.launched import MeetingPoint
from shardnet.cluster.local_workers import MOST_LOCAL_DEVICES, LocalWorkers
from shardnet.device.process import MOST_THREADS
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import MOST_DIGITS, quoted
from shardnet.process.ending import one_line
from shardnet.process.standard_streams import say
from shardnet.process.surroundings import require_address_space, require_docstrings, require_folder
from shardnet.profiling.cores import max_threads

if TYPE_CHECKING:
    from shardnet.transport.door.door import Door

LOOK_EVERY_S = 0.2


def run(options: argparse.Namespace) -> None:
    """Start the devices, run the script, end the devices."""
    require_folder()
    require_docstrings()
    require_address_space()
    if options.module:
        _require_module(options.script)
    elif Path(options.script).is_dir() and not Path(options.script, "__main__.py").exists():
        raise BadRequest(f"{options.script} is a folder without __main__.py. Name a script in it.")
    elif not Path(options.script).exists():
        raise BadRequest(f"There is no script {options.script!r}. For a module, put -m before its name.")

    cores = max_threads()
    given = options.nproc_per_node
    num_devices = cores if given == "auto" else _count("--nproc-per-node", given, MOST_LOCAL_DEVICES)
    threads = max(1, cores // num_devices)
    if options.threads is not None:
        threads = _count("--threads", options.threads, MOST_THREADS)
    names = [f"device-{index}" for index in range(num_devices)]

    log_dir = None if options.log_dir is None else Path(options.log_dir)
    with ExitStack() as resources:
        door = resources.enter_context(_open_door(options.rdzv_endpoint))
        workers = resources.enter_context(LocalWorkers(door.endpoint, names, threads, log_dir))
        resources.enter_context(_told_about(workers, tee=options.tee))
        importlib.import_module("shardnet.cluster.cluster")  # imports the most: the devices start meanwhile
        os.environ.update(MeetingPoint(door.endpoint, num_devices).variables())
        _run_script(options.script, options.arguments, is_module=options.module)


def _open_door(endpoint: str | None) -> Door:
    """Where the devices meet: at an address that was asked for, or where only this user can."""
    from shardnet.transport.door.door import serve_door
    from shardnet.transport.door.endpoint import split_endpoint

    return serve_door() if endpoint is None else serve_door(*split_endpoint(endpoint))


class _Parser(argparse.ArgumentParser):
    """One sentence for a wrong option, as every command has it."""

    def error(self, message: str) -> NoReturn:
        say(f"shardnet-run: {one_line(message)}. See shardnet-run --help.")
        raise SystemExit(2)


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line says; ends with exit code 2 where it says something impossible."""
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="shardnet-run",
        description="Run a script against local devices; in it, shardnet.Cluster.connect() finds them.",
        epilog="Example: shardnet-run --standalone --nproc-per-node 3 script.py",
        allow_abbrev=False,
    )
    parser.add_argument("--standalone", action="store_true", help="everything on this machine (the only way so far)")
    parser.add_argument(
        "--nproc-per-node", "--nproc_per_node", default="1", metavar="N", help="devices to start, or auto: one per core"
    )
    parser.add_argument(
        "--rdzv-endpoint",
        "--rdzv_endpoint",
        metavar="HOST:PORT",
        help="where the devices meet, for others of this user to find them: on loopback, such as 127.0.0.1:29500 "
        "(default: a socket of this user's)",
    )
    parser.add_argument("--threads", metavar="N", help="compute threads of each device (default: cores / devices)")
    parser.add_argument("--log-dir", "--log_dir", metavar="DIR", help="keep what each device prints, as DIR/NAME.log")
    parser.add_argument("--tee", action="store_true", help="show on the terminal, too, what the devices print")
    parser.add_argument("--debug", action="store_true", help="on an error of shardnet, print the whole traceback")
    parser.add_argument("-m", "--module", action="store_true", help="the script is a module, as with python -m")
    parser.add_argument("script", help="the script (or module) to run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    return parser


def _count(option: str, text: str, most: int) -> int:
    is_number = text.isdecimal() and len(text) <= MOST_DIGITS
    if not is_number or not 1 <= int(text) <= most:
        raise BadRequest(f"{option} must be a whole number from 1 to {most}, but is {quoted(text)}.")
    return int(text)


def _require_module(name: str) -> None:
    """Refuse a module that cannot be found; imports the packages around it."""
    _search_first(os.getcwd())
    try:
        found = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise BadRequest(f"There is no module {name!r}.")


def _search_first(folder: str) -> None:
    """Let modules be found there first, in place of the launcher's folder, unless Python was told not to (-P)."""
    if not getattr(sys.flags, "safe_path", False):  # since Python 3.11
        sys.path[0] = folder


def _run_script(script: str, arguments: Sequence[str], *, is_module: bool) -> None:
    """Run it as Python would: as `__main__`, with its own arguments and its folder first in the search path."""
    sys.argv = [script, *arguments]
    try:
        if is_module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            _search_first(str(Path(script).resolve().parent))
            runpy.run_path(script, run_name="__main__")
    except Exception as error:
        traceback.print_exception(type(error), error, _after_launcher(error.__traceback__))
        raise SystemExit(1) from error


def _after_launcher(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the script on, without the frames that led there."""
    after = trace
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
            after = trace.tb_next
        trace = trace.tb_next
    return after


@contextmanager
def _told_about(workers: LocalWorkers, *, tee: bool) -> Iterator[None]:
    """While the block runs, say which device has died, and with `tee` what the devices print."""
    is_over = threading.Event()

    def watch() -> None:
        dead: set[str] = set()
        shown = dict.fromkeys(workers.names, 0)
        is_last = False
        while not is_last:
            is_last = is_over.wait(LOOK_EVERY_S)
            for name in workers.names if tee else ():
                shown[name] = _show_log(workers.log_dir / f"{name}.log", name, shown[name])
            for name, code in workers.poll():
                if code != 0 and name not in dead:
                    dead.add(name)
                    say(f"shardnet-run: {name} {workers.how_it_ended(name)}.")

    watcher = threading.Thread(target=watch, name="shardnet-run-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _show_log(log: Path, name: str, start: int) -> int:
    """Print the lines of a log from byte `start` on; returns where the next look starts."""
    try:
        with open(log, "rb") as file:
            file.seek(start)
            news = file.read()
    except FileNotFoundError:  # the device is still being started
        return start
    whole = news[: news.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        say(f"[{name}] {line}")
    return start + len(whole)

"""The process of one device: joins the cluster, and serves until it is told to leave.

    python -m shardnet.device.process --endpoint ENDPOINT --name NAME [--threads N] [--memory-bytes N]
        [--cache-bytes N] [--fetch-bytes-per-s N] [--keep-s N] [--end-with FD]

A device whose door is gone goes on: the others reach it, and its stages wait for another coordinator (`orphans`). With
`--keep-s` it looks for the door for so long, and ends where nobody opens it again.

Standard input means nothing to it: it may be a terminal, a pipe, /dev/null (nohup, systemd) or closed. A process that
starts a device and must not be outlived by it hands down the reading end of a pipe and keeps the other end open.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from shardnet.device.power_limits import NO_POWER_LIMITS, PowerLimits
from shardnet.errors import ClusterError, ShardnetError
from shardnet.foreign.quoting import MOST_DIGITS, quoted
from shardnet.process.allocator import return_freed, settle_allocator
from shardnet.process.ending import orderly_exit
from shardnet.process.late_imports import META_KERNELS, import_whole, put_off
from shardnet.process.light_set import require_light_set
from shardnet.process.signals import end_at_once
from shardnet.process.standard_streams import open_closed, say
from shardnet.process.surroundings import require_address_space
from shardnet.shipping.limits import NO_LIMITS, FetchLimits
from shardnet.timeline.events import units_of

if TYPE_CHECKING:
    from shardnet.device.pausing import Pausing
    from shardnet.device.worker import Worker
    from shardnet.transport import RpcTransport
    from shardnet.transport.door.membership import DoorEvent

Tell = Callable[[str, str], object]
"""Told of an event by a word, and by what goes with it."""
MakeWorker = Callable[[], "Worker"]
JOIN_S = 60.0
GOODBYE_S = 1.0
LEAVE_S = 60.0
"""For so long others may take over what a device holds that is told to end by a signal."""
LOOK_EVERY_S = 0.5
"""How often it is looked at what a device holds, to tell it."""
MOST_KEEP_S = 10**9
MOST_RATE = 10**12
"""Bytes per second: beyond any link."""
MOST_THREADS = 1024
"""Of computing, for one device. Beyond any machine: a slip of the keys must not fill the system with threads."""
NEEDED = (
    "torch",
    "torch._prims.rng_prims",  # without it, torch 2.13 makes no generator
    "torch.distributed.rpc.rref_proxy",  # the agent imports it anyway
    "shardnet.transport.rpc.transport",
    "shardnet.device.worker",
)
"""No `transformers`: a device imports it when it first loads units of a family that needs it (`models.recipes`)."""


class _Parser(argparse.ArgumentParser):
    """One sentence for a wrong option, as every command has it."""

    def error(self, message: str) -> NoReturn:
        say(f"shardnet-worker: {message}.")
        raise SystemExit(2)


def main() -> int:
    """Serve as a device; the exit code is 0 after an orderly goodbye."""
    end_at_once()
    open_closed()
    parser = _Parser(prog="shardnet-worker", description="Serve as one device of a shardnet cluster.")
    parser.add_argument(
        "--endpoint", required=True, metavar="ENDPOINT", help="of the cluster's door, HOST:PORT or unix:PATH"
    )
    parser.add_argument("--name", required=True, help="the name of this device, unique in the cluster")
    parser.add_argument("--threads", type=_count, default=1, help="compute threads")
    parser.add_argument("--memory-bytes", type=_bytes, help="what its models may take; without it, what there is")
    parser.add_argument("--compute", default="cpu", help="where it computes: cpu, cuda:0 (or another number), mps")
    parser.add_argument("--cache-bytes", type=_bytes, help="disk that weights which it fetches may take")
    parser.add_argument("--fetch-bytes-per-s", type=_rate, metavar="N", help="at which it fetches them, at most")
    parser.add_argument(
        "--keep-s",
        type=_seconds,
        default=0,
        metavar="N",
        help="look so many seconds for a door that is gone, and end then; 0 does neither",
    )
    parser.add_argument("--end-with", type=_pipe, metavar="FD", help="end at once when this inherited pipe is closed")
    arguments = parser.parse_args()
    if arguments.end_with is not None:
        end_with(arguments.end_with)
    return serve_and_report(
        arguments.endpoint,
        arguments.name,
        arguments.threads,
        arguments.keep_s,
        arguments.memory_bytes,
        fetch_limits=FetchLimits(arguments.cache_bytes, arguments.fetch_bytes_per_s),
        compute=arguments.compute,
        power_limits=NO_POWER_LIMITS if arguments.keep_s else None,  # of a cluster that stays, or of a script's
    )


def _rate(text: str) -> int:
    return _whole(text, 1, MOST_RATE)


def _count(text: str) -> int:
    return _whole(text, 1, MOST_THREADS)


def _seconds(text: str) -> int:
    return _whole(text, 0, MOST_KEEP_S)


def _whole(text: str, least: int, most: int) -> int:
    is_number = text.isdecimal() and len(text) <= MOST_DIGITS
    if not is_number or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"it must be a whole number from {least} to {most}, but is {quoted(text)}")
    return int(text)


def _bytes(text: str) -> int:
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"it must be a number of bytes, but is {quoted(text)}")
    return int(text)


def _pipe(text: str) -> int:
    try:
        os.fstat(int(text))
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(f"it must be the number of an open file, but is {quoted(text)}") from None
    return int(text)


def import_all(more: Iterable[str] = ()) -> None:
    """Import what a device needs, most of what its start takes, and then these modules."""
    with put_off(META_KERNELS):  # `weightless` has it run where it is needed
        for module in NEEDED:
            importlib.import_module(module)
    for module in more:
        import_whole(module)


def serve_and_report(
    endpoint: str,
    name: str,
    threads: int,
    keep_s: float = 0.0,
    most_memory_bytes: int | None = None,
    make_worker: MakeWorker | None = None,
    fetch_limits: FetchLimits = NO_LIMITS,
    compute: str = "cpu",
    power_limits: PowerLimits | None = None,
) -> int:
    """Be a device until it is over. Whatever else ends it is one sentence on standard error; returns the exit code."""
    try:
        with orderly_exit(debug=False):
            require_light_set()
            require_address_space()
            serve(
                endpoint,
                name,
                threads,
                keep_s,
                most_memory_bytes,
                make_worker=make_worker,
                fetch_limits=fetch_limits,
                compute=compute,
                power_limits=power_limits,
            )
    except SystemExit as end:
        assert isinstance(end.code, int), end.code
        return end.code
    return 0


def serve(
    endpoint: str,
    name: str,
    threads: int,
    keep_s: float = 0.0,
    most_memory_bytes: int | None = None,
    tell: Tell = lambda event, what: None,
    make_worker: MakeWorker | None = None,
    leave_s: float = 0.0,
    power_limits: PowerLimits | None = None,
    fetch_limits: FetchLimits = NO_LIMITS,
    join_s: float = JOIN_S,
    compute: str = "cpu",
) -> None:
    """Be a device until it is over. One that the others have struck off, as it was silent for too long, joins anew.

    Args:
        keep_s: how long to look for a door that is gone; 0 does not look, and goes on without one.
        most_memory_bytes: what its models may take; None for what there is.
        tell: told when it has joined ("joined"), what it holds ("holds", with the units, or with nothing), when its
            door is gone and back ("gone", "back"), that it fetches weights and has them ("fetching", "fetched", with a
            sentence), when it was struck off ("struck off"), and when it has left ("left"). At a signal: that others
            take over what it holds ("leaving", with the units), that they have ("drained", with who has), that they
            cannot ("not drained"), or that it ends before they have ("cut short"). Of pauses: see `Pausing`.
        make_worker: makes the device, and another one each time that it joins anew; None for what this machine is.
        leave_s: how long, at a signal, others may take to take over what it holds; 0 or another signal: no time.
        power_limits: when it pauses; None where its battery is not looked at, as its coordinator knows no pauses.
        fetch_limits, compute: what it gives for weights that it has to fetch; where it computes.
        join_s: how long to look for the door at first.

    Raises:
        ShardnetError: it could not join, the door was not found again, or there is no such accelerator here.
    """
    settle_allocator()
    import_all()
    return_freed()

    import torch

    from shardnet.device.pausing import Pausing

    make_worker = make_worker or _own_worker(threads, most_memory_bytes, fetch_limits, compute)
    torch.set_num_threads(threads)
    pausing = None if power_limits is None else Pausing(power_limits, tell)
    wait_s, is_over = join_s, False
    while not is_over:
        with make_worker() as worker:
            _prepare(worker, tell, pausing)
            here = _joined(endpoint, name, wait_s, keep_s, worker)
            wait_s = max(join_s, keep_s)
            if here is None:
                continue
            with here:
                is_lost = _stay(here, worker, keep_s, leave_s, pausing, tell)
        is_over = not here.struck_off.is_set()
        if is_lost.is_set():
            raise ClusterError(
                f"The cluster at {endpoint} did not come back within {keep_s:g} s. Start it, and then this device."
            )
        tell("left" if is_over else "struck off", "")


def _prepare(worker: Worker, tell: Tell, pausing: Pausing | None) -> None:
    """Before it is attached."""
    from shardnet.device.fetch_news import FetchNews

    worker.on_fetch = FetchNews(tell).hear
    if pausing is not None:
        worker.power, worker.on_pause = lambda: pausing.power, pausing.ask


def _own_worker(threads: int, most_memory_bytes: int | None, fetch_limits: FetchLimits, compute: str) -> MakeWorker:
    """Makes what this machine is."""
    from shardnet.device.worker import Worker
    from shardnet.process.cache_folder import cache_folder

    return partial(
        Worker,
        threads,
        cache_folder(),
        most_memory_bytes=most_memory_bytes,
        fetch_limits=fetch_limits,
        compute=compute,
    )


def _stay(
    here: RpcTransport, worker: Worker, keep_s: float, leave_s: float, pausing: Pausing | None, tell: Tell
) -> threading.Event:
    """Be a device of the cluster until it shall leave; what is returned is set where the door was given up."""
    with _goodbye_at_interruption(here, leave_s, tell):
        here.on_struck_off(worker.left.set)
        is_lost = _ends_with_door(here, worker.left, tell) if keep_s else threading.Event()
        tell("joined", "")
        with nullcontext() if pausing is None else pausing.watch(here):
            _tell_what_is_held(worker, tell)
    return is_lost


def _tell_what_is_held(worker: Worker, tell: Tell) -> None:
    """Until the device shall leave."""
    told = worker.holds()
    while not worker.left.wait(LOOK_EVERY_S):
        holds = worker.holds()
        if holds != told:
            told = holds
            tell("holds", units_of(holds) if holds else "")


def _joined(endpoint: str, name: str, wait_s: float, keep_s: float, worker: Worker) -> RpcTransport | None:
    """Join, and wait so long for the door. None where it was closed in the middle of that, and is waited for."""
    from shardnet.transport import RpcTransport
    from shardnet.transport.door.membership import DoorGone

    try:
        return RpcTransport.join(endpoint, name, timeout_s=wait_s, look_again_s=keep_s, prepare=worker.attach)
    except DoorGone:
        if not keep_s:
            raise
        return None


def _ends_with_door(here: RpcTransport, left: threading.Event, tell: Tell) -> threading.Event:
    """Have the device leave when its door is given up; set then is what is returned."""
    is_lost = threading.Event()

    def hear(event: DoorEvent) -> None:
        if event == "given up":
            is_lost.set()
            left.set()
        else:
            tell(event, "")

    here.on_door(hear)
    return is_lost


@contextmanager
def _goodbye_at_interruption(here: RpcTransport, leave_s: float, tell: Tell) -> Iterator[None]:
    """Where this block is interrupted, by Ctrl-C or SIGTERM, tell the coordinator that this is no loss.

    Raises:
        SystemExit: with 1, where it was interrupted once more before others had taken over.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        _say_goodbye(here, leave_s, tell)
        raise


def _say_goodbye(here: RpcTransport, leave_s: float, tell: Tell) -> None:
    """Tell the coordinator that this is no loss, and let others take over before."""
    from shardnet.transport.source_messages import COORDINATOR

    with suppress(ShardnetError, TimeoutError):
        held = here.post(COORDINATOR, "goodbye", here.name, timeout_s=GOODBYE_S).result(GOODBYE_S)
        if held and leave_s:
            _leave_in_order(here, held, leave_s, tell)


def _leave_in_order(here: RpcTransport, held: str, leave_s: float, tell: Tell) -> None:
    from shardnet.transport.source_messages import COORDINATOR

    tell("leaving", held)
    began_s = time.monotonic()
    try:
        moved = here.call(COORDINATOR, "drain", here.name, timeout_s=leave_s).result()
    except ShardnetError as error:
        tell("not drained", str(error).rstrip("."))
    except (KeyboardInterrupt, SystemExit):
        tell("cut short", held)
        raise SystemExit(1) from None
    else:
        if moved:
            tell("drained", f"{moved}, after {time.monotonic() - began_s:.2f} s")
        else:
            tell("not drained", f"nobody else can hold {held}")


def end_with(pipe: int) -> None:
    """End this process at once when the other end of `pipe` closes. A watching thread: works wherever pipes do."""

    def watch() -> None:
        while os.read(pipe, 1024):
            pass
        os._exit(0)

    threading.Thread(target=watch, name="shardnet-parent-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())

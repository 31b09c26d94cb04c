"""What a command line of `shardnet-run` comes to: checked values, or one sentence that says what to do instead."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shardnet.cluster.local_workers import MOST_LOCAL_DEVICES
from shardnet.device.process import MOST_THREADS
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.launch.launcher.meeting import Meeting, meeting_of
from shardnet.launch.launcher.numbers import count, name, seconds
from shardnet.launch.launcher.options import Typed
from shardnet.launch.launcher.streams import Streams, shown_ranks, streams_by_rank, words

MOST_RESTARTS = 10**6
Kind = Literal["file", "module", "program", "run_path"]

NO_MEANING = {
    "logs_specs": "what is logged where is up to --log-dir, --redirects and --tee",
    "numa_binding": "it binds processes to the processors beside their GPU, and devices here compute on processors; "
    "put numactl before shardnet-run",
}
"""Options of torchrun's that cannot be followed, each with the reason."""
ONLY = {
    "start_method": ("spawn", "each process is started anew"),
    "event_log_handler": ("null", "what happens is said on standard error"),
}
"""Options of which one value can be followed."""


@dataclass(frozen=True)
class Logs:
    """What goes where. Lists have an item for each local rank."""

    folder: Path | None
    redirected: list[Streams]
    shown: list[Streams]
    """What goes to a file and, line by line, to the terminal."""
    ranks: frozenset[int]
    """Those of which the terminal shows anything."""
    out_filters: tuple[str, ...]
    err_filters: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A run of one node."""

    script: str
    arguments: tuple[str, ...]
    kind: Kind
    on_every_node: bool
    num_devices: int
    threads: int
    meeting: Meeting
    role: str
    has_virtual_rank: bool
    max_restarts: int
    look_every_s: float
    signals: tuple[signal.Signals, ...]
    shutdown_s: float
    logs: Logs

    @property
    def num_scripts(self) -> int:
        """How many processes of this node run the script, where it runs at all."""
        return self.num_devices if self.on_every_node else 1


def asked_in(typed: Typed, cores: int, *, on_phone: bool) -> Asked:
    """
    Args:
        cores: those of this machine that pay.

    Raises:
        BadRequest: an option says something impossible, or something that has no meaning here.
    """
    _refuse(typed)
    texts = typed.texts
    meeting = meeting_of(typed)
    on_every_node = "every_node" in typed.flags
    if on_every_node and not meeting.has_fixed_ranks:
        raise BadRequest(
            "--every-node on several nodes needs their number, as in --nnodes 2, and --node-rank on each of them: the "
            "script's processes are told their ranks when they start."
        )
    num_devices = _num_devices(texts["nproc_per_node"], cores, on_phone=on_phone)
    threads = max(1, cores // num_devices)
    if texts["threads"]:
        threads = count("--threads", texts["threads"], 1, MOST_THREADS)
    return Asked(
        script=typed.script,
        arguments=typed.arguments,
        kind=_kind(typed),
        on_every_node=on_every_node,
        num_devices=num_devices,
        threads=threads,
        meeting=meeting,
        role=name("--role", texts["role"]),
        has_virtual_rank="virtual_local_rank" in typed.flags,
        max_restarts=count("--max-restarts", texts["max_restarts"], 0, MOST_RESTARTS),
        look_every_s=seconds("--monitor-interval", texts["monitor_interval"]),
        signals=_signals(texts["signals_to_handle"]),
        shutdown_s=seconds("--shutdown-timeout", texts["shutdown_timeout"]),
        logs=_logs(typed, num_devices),
    )


def _logs(typed: Typed, num_ranks: int) -> Logs:
    texts = typed.texts
    return Logs(
        folder=Path(texts["log_dir"]) if texts["log_dir"] else None,
        redirected=streams_by_rank("--redirects", texts["redirects"], num_ranks),
        shown=streams_by_rank("--tee", texts["tee"], num_ranks),
        ranks=shown_ranks("--local-ranks-filter", texts["local_ranks_filter"], num_ranks),
        out_filters=words(texts["duplicate_stdout_filters"]),
        err_filters=words(texts["duplicate_stderr_filters"]),
    )


def _refuse(typed: Typed) -> None:
    for field, reason in NO_MEANING.items():
        if typed.texts[field]:
            raise BadRequest(f"--{field.replace('_', '-')} has no meaning here: {reason}. Leave it out.")
    for field, (only, reason) in ONLY.items():
        if typed.texts[field] != only:
            given = quoted(typed.texts[field])
            raise BadRequest(f"--{field.replace('_', '-')} can only be {only}, but is {given}: {reason}. Leave it out.")


def _kind(typed: Typed) -> Kind:
    """
    Raises:
        BadRequest: two ways to run it are asked for.
    """
    kinds: dict[str, Kind] = {"module": "module", "no_python": "program", "run_path": "run_path"}
    given = [field for field in kinds if field in typed.flags]
    if len(given) > 1:
        first, second = (f"--{field.replace('_', '-')}" for field in given[:2])
        raise BadRequest(f"{first} and {second} are two ways to run the script. Leave one of them out.")
    return kinds[given[0]] if given else "file"


def _num_devices(text: str, cores: int, *, on_phone: bool) -> int:
    if text in ("gpu", "xpu"):
        raise BadRequest(f"--nproc-per-node {text}: devices compute on processors. Say cpu, auto or a number.")
    if text in ("cpu", "auto"):
        return 1 if on_phone else cores
    number = count("--nproc-per-node", text, 1, MOST_LOCAL_DEVICES)
    if on_phone and number > 1:
        raise BadRequest(
            f"--nproc-per-node is 1 on a phone, but is {number}: Android ends processes, and one with several threads "
            "uses all cores. Say --nproc-per-node 1, and --threads if need be."
        )
    return number


def _signals(text: str) -> tuple[signal.Signals, ...]:
    found = []
    for named in filter(None, (each.strip() for each in text.split(","))):
        number = signal.Signals.__members__.get(named)
        if number is None or number in (signal.SIGKILL, signal.SIGSTOP):
            raise BadRequest(f"--signals-to-handle names {quoted(named)}, which is no signal that can be handled.")
        found.append(number)
    return tuple(found)

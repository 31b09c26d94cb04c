"""What the commands of a cluster that outlives them may be asked, each declared once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shardnet.coordinator.own_gate import Listening
from shardnet.device.power_limits import PowerLimits
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.launch.values import MODEL_HELP, require_model, require_threads
from shardnet.options import Number, Whole
from shardnet.process.compute import CPU, require_form
from shardnet.process.lasting import default_folder, folder_of, require_running
from shardnet.shipping.limits import FetchLimits

_DEVICE = "The device of this machine"
_WEIGHTS = "Weights that it has no copy of"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,62}")
LISTEN, NOBODY = "0.0.0.0:29500", "none"


@dataclass(frozen=True)
class WhichModel:
    """What `up` loads."""

    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP, rich_help_panel="The model")]

    def __post_init__(self) -> None:
        require_model("--model", self.model)


@dataclass(frozen=True)
class NextModel:
    """What `load` loads."""

    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]

    def __post_init__(self) -> None:
        require_model("MODEL", self.model)


@dataclass(frozen=True)
class SpanOptions:
    """What is kept of a run."""

    record_spans: Annotated[
        bool,
        typer.Option(
            "--record-spans", help="Keep what each stage does, for generate --profile.", rich_help_panel="The model"
        ),
    ] = False


@dataclass(frozen=True)
class StateOptions:
    """Where a cluster lives."""

    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="DIR",
            help="Where the cluster lives; its address for other commands.",
            show_default="~/.local/state/shardnet/default",
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.state == "":
            raise BadRequest("--state must name a folder, but is empty. Leave it out for the default one.")

    @property
    def folder(self) -> Path:
        return default_folder() if self.state is None else Path(os.path.expanduser(self.state)).absolute()


@dataclass(frozen=True)
class ClusterOptions:
    """Which cluster is meant."""

    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="ADDRESS",
            help="The state folder of the cluster, or unix:PATH of the door in it.",
            show_default="~/.local/state/shardnet/default",
        ),
    ] = None

    def running_folder(self) -> Path:
        """Where it lives. To be asked before anything is imported that takes time.

        Raises:
            BadRequest: the address is none.
            JoinFailed: no cluster runs there.
        """
        folder = self.folder()
        require_running(folder)
        return folder

    def folder(self) -> Path:
        """Where it lives on this machine.

        Raises:
            BadRequest: the address is none.
        """
        folder = folder_of(self.cluster)
        if folder is None:
            raise BadRequest(
                "--cluster is the state folder of a cluster that shardnet up has started, or unix:PATH of the door in "
                f"it, but is {quoted(self.cluster)}."
            )
        return folder.absolute()


@dataclass(frozen=True)
class OwnDeviceOptions:
    """The device of this machine."""

    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="What the device is called.", show_default="the machine's name", rich_help_panel=_DEVICE
        ),
    ] = None
    threads: Annotated[
        int | None,
        Whole(1),
        typer.Option("--threads", help="Its compute threads.", show_default="all cores", rich_help_panel=_DEVICE),
    ] = None
    compute: Annotated[
        str,
        typer.Option(
            "--compute", help="Where it computes: cpu, cuda:0 (or another number), mps.", rich_help_panel=_DEVICE
        ),
    ] = CPU
    memory_gib: Annotated[
        float | None,
        Number("above 0", 0, above=True),
        typer.Option(
            "--memory-gib",
            help="Memory that its models may take.",
            show_default="what there is",
            rich_help_panel=_DEVICE,
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.name is not None and _NAME.fullmatch(self.name) is None:
            raise BadRequest(
                f"--name must be 1 to 63 letters, digits and .:@_-, beginning with a letter or a digit, but is "
                f"{quoted(self.name)}."
            )
        require_threads(self.threads)
        require_form(self.compute)

    @property
    def most_memory_bytes(self) -> int | None:
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)


@dataclass(frozen=True)
class UpOptions:
    """What else `up` is asked."""

    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help=f"Where other machines come in, through TLS; {NOBODY}: this machine only.",
            show_default=f"{LISTEN}, or the next port that is free",
        ),
    ] = None
    no_device: Annotated[bool, typer.Option("--no-device", help="Only coordinate: this machine holds no layers.")] = (
        False
    )
    serve: Annotated[
        bool, typer.Option("--serve", help="Answer clients of OpenAI's API, too: shardnet serve beside it.")
    ] = False
    serve_port: Annotated[
        int, Whole(0, 65535), typer.Option("--serve-port", help="Where it does; 0: any port that is free.")
    ] = 8000

    def __post_init__(self) -> None:
        _require_listen(self.listen)

    @property
    def listening(self) -> Listening | None:
        """Where other machines come in; None where they do not."""
        if self.listen is None:
            return Listening((LISTEN,), or_next=True)
        return None if self.listen == NOBODY else Listening((self.listen,))


@dataclass(frozen=True)
class JoinOptions:
    """What else `join` is asked."""

    code: Annotated[
        str | None,
        typer.Argument(
            metavar="[CODE]",
            help="What the other machine shows, as 7-harbour-green or the text of its QR code; - has it typed, or "
            "piped in. Not needed on the same machine, nor where this one has joined before.",
            show_default=False,
        ),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="Of the other machine, where it is not found in this network, or has another address than before.",
        ),
    ] = None
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help=f"Where other machines of the cluster dial this one, through TLS; port 0 is any, {NOBODY}: nowhere.",
        ),
    ] = "0.0.0.0:0"
    source_only: Annotated[
        bool,
        typer.Option("--source-only", help="Hold no layers: only let commands on this machine reach the cluster."),
    ] = False
    min_battery: Annotated[
        float,
        Number("from 0 to 100", 0, 100),
        typer.Option(
            "--min-battery",
            metavar="PERCENT",
            help="Pause where less is left in the battery and no charger is there; 0 never does.",
            rich_help_panel=_DEVICE,
        ),
    ] = 10.0
    only_charging: Annotated[
        bool,
        typer.Option("--only-charging", help="Pause while this machine is on its battery.", rich_help_panel=_DEVICE),
    ] = False
    cache_gib: Annotated[
        float | None,
        Number("above 0", 0, above=True),
        typer.Option(
            "--cache-gib",
            help="Disk that weights which it fetches may take.",
            show_default="what is free",
            rich_help_panel=_WEIGHTS,
        ),
    ] = None
    fetch_mbit_per_s: Annotated[
        float | None,
        Number("above 0", 0, above=True),
        typer.Option(
            "--fetch-mbit-per-s",
            help="Of its link, that fetching weights may take.",
            show_default="all",
            rich_help_panel=_WEIGHTS,
        ),
    ] = None

    def __post_init__(self) -> None:
        _require_listen(self.listen)

    @property
    def power_limits(self) -> PowerLimits:
        return PowerLimits(self.min_battery, self.only_charging)

    @property
    def fetch_limits(self) -> FetchLimits:
        cache_bytes = None if self.cache_gib is None else int(self.cache_gib * 2**30)
        bytes_per_s = None if self.fetch_mbit_per_s is None else self.fetch_mbit_per_s * 1e6 / 8
        return FetchLimits(cache_bytes, bytes_per_s)


@dataclass(frozen=True)
class EventOutput:
    """How events are told."""

    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON per event, nothing else.")] = False


@dataclass(frozen=True)
class ResultOutput:
    """How a result is told."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")] = False


@dataclass(frozen=True)
class TopOptions:
    """How `top` looks."""

    every_s: Annotated[
        float,
        Number("from 0.2 to 3600", 0.2, 3600),
        typer.Option("--every", metavar="SECONDS", help="How often to look."),
    ] = 1.0
    once: Annotated[bool, typer.Option("--once", help="Look once, over a second, and end.")] = False
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON per look, nothing else.")] = False


@dataclass(frozen=True)
class ChatOptions:
    """How a chat begins."""

    system: Annotated[
        str,
        typer.Option(
            "--system", metavar="TEXT", help="How the model is to answer, where it is told that.", show_default=False
        ),
    ] = ""


@dataclass(frozen=True)
class AnyDevice:
    """Which device shall leave, pause, or work again."""

    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Of the device; not needed where only one has joined.", show_default=False
        ),
    ] = None


@dataclass(frozen=True)
class OneDevice:
    """Which device is struck off."""

    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the device.", show_default=False)]


@dataclass(frozen=True)
class AnyAnswer:
    """Which answer shall go on."""

    number: Annotated[
        int | None,
        Whole(1),
        typer.Argument(
            metavar="[NUMBER]",
            help="Of the answer, as shardnet status has it; not needed where there is only one.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True)
class OneAnswer:
    """Which answer is forgotten."""

    number: Annotated[
        int,
        Whole(1),
        typer.Argument(metavar="NUMBER", help="Of the answer, as shardnet status has it.", show_default=False),
    ]


@dataclass(frozen=True)
class WhomToTrust:
    """What `trust` is asked."""

    revoke: Annotated[
        str | None,
        typer.Option(
            "--revoke", metavar="NAME", help="Shut this machine out at once, and for good.", show_default=False
        ),
    ] = None


def _require_listen(listen: str | None) -> None:
    if listen == "":
        raise BadRequest(f"--listen must not be empty: give HOST:PORT, or {NOBODY} for this machine only.")

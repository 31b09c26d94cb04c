"""What `shardnet generate` was asked to do, checked before anything is started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import counted, quoted
from shardnet.launch.files.text_files import read_text_of
from shardnet.launch.values import DEFAULT_DEVICES, MODEL_HELP, require_model, require_threads
from shardnet.options import Whole
from shardnet.session.options import GenerationOptions

_DEVICES = "Devices"
_OUTPUT = "Output"


@dataclass(frozen=True)
class PromptOptions:
    """What is asked."""

    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="The prompt. Several run at the same time.")
    ] = None
    prompt_file: Annotated[
        str | None,
        typer.Option("--prompt-file", metavar="FILE", help="Read the prompt from a file (-: standard input)."),
    ] = None


@dataclass(frozen=True)
class ModelOptions:
    """Who is asked."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=MODEL_HELP,
            show_default="what a cluster of shardnet up holds",
            rich_help_panel="The model",
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.model is not None:
            require_model("--model", self.model)


@dataclass(frozen=True)
class DeviceOptions:
    """On which devices."""

    devices: Annotated[
        int | None,
        Whole(1),
        typer.Option(
            "--devices", help="Local devices to start, each a process.", show_default="3", rich_help_panel=_DEVICES
        ),
    ] = None
    """None: one for each part of the split, or three, or those of `cluster`."""
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="ADDRESS",
            help="Ask a cluster that shardnet up started (its state folder), or use devices of shardnet-run "
            "(HOST:PORT).",
            rich_help_panel=_DEVICES,
        ),
    ] = None
    threads: Annotated[
        int | None,
        Whole(1),
        typer.Option(
            "--threads",
            help="Compute threads of each device.",
            show_default="cores / devices",
            rich_help_panel=_DEVICES,
        ),
    ] = None

    def __post_init__(self) -> None:
        require_threads(self.threads)
        if self.devices is not None and self.cluster is not None:
            raise BadRequest("--devices starts local devices, --cluster uses running ones; leave one of them out.")


@dataclass(frozen=True)
class OutputOptions:
    """What is shown and written."""

    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile",
            metavar="DIR",
            help="Write a trace of all devices, TensorBoard events and the plan there.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    stats: Annotated[
        bool, typer.Option("--stats", "-v", help="Show the plan, speeds and memory too.", rich_help_panel=_OUTPUT)
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, nothing else.", rich_help_panel=_OUTPUT)
    ] = False


@dataclass(frozen=True)
class GenerateOptions:
    """A request of the command line. What does not go together raises `BadRequest` with one sentence."""

    model: str
    """Empty where a cluster holds one, and it need not be named."""
    prompts: tuple[str, ...]
    where: DeviceOptions
    load: LoadOptions
    generation: GenerationOptions
    output: OutputOptions
    is_launched: bool = False
    """`shardnet-run` started this, and its devices are used."""
    running_in: Path | None = None
    """The state folder of a cluster that is asked, and holds its model already."""

    def __post_init__(self) -> None:
        if self.running_in is not None:
            self._refuse_what_was_decided()
        if self.where.threads is not None and self.uses_running_devices:
            raise BadRequest("--threads is for local devices; those of a cluster have theirs already.")
        if self.generation.logprobs >= 0 and not self.output.json:
            raise BadRequest("--logprobs are shown in the object of --json alone. Add --json.")
        num_shards, num_devices = len(self.load.split or ()), self.where.devices
        if num_shards and num_devices is not None and num_shards != num_devices:
            names = f"--split names {counted(num_shards, 'shards')} for {counted(num_devices, 'devices')}"
            raise BadRequest(f"{names}; name one per device.")

    @property
    def uses_running_devices(self) -> bool:
        return self.where.cluster is not None or self.is_launched or self.running_in is not None

    @property
    def num_local_devices(self) -> int:
        """How many to start, where no running cluster is used: those that the split names, or three."""
        return self.where.devices or len(self.load.split or ()) or DEFAULT_DEVICES

    def _refuse_what_was_decided(self) -> None:
        """
        Raises:
            BadRequest: an option says how a model is loaded, but it is loaded.
        """
        for name in self.load.keys():  # noqa: SIM118
            if self.load[name] != getattr(LoadOptions, name):
                option = f"--{name.replace('_', '-').removesuffix('-tokens')}"
                raise BadRequest(
                    f"{option} is for loading a model, and the cluster in {self.running_in} has loaded its own. Leave "
                    "it out, or use it with shardnet load."
                )

    def check_environment(self) -> None:
        """Check what needs the disk and other packages: the folder for a profile."""
        from shardnet.timeline.report import require_extras, require_writable

        if self.output.profile is not None:
            require_extras()
            require_writable(self.output.profile)


def read_stops(stops: list[str] | None) -> tuple[str, ...]:
    """The texts of `--stop`."""
    if not all(stops or ()):
        raise BadRequest("--stop must not be empty; leave it out to stop where the model ends its text.")
    try:
        return tuple(_whole(stop) for stop in stops or ())
    except UnicodeError as error:
        raise BadRequest("--stop is not text in UTF-8. Give it as UTF-8.") from error


def read_biases(biases: list[str] | None) -> list[tuple[int, float]]:
    """Those of `--logit-bias`: `ID=BIAS`."""
    found = []
    for each in biases or ():
        token_id, _, bias = each.partition("=")
        try:
            found.append((int(token_id), float(bias)))
        except ValueError as error:
            raise BadRequest(f"--logit-bias must be like 50256=-100 (ID=BIAS), but is {quoted(each)}.") from error
    return found


def read_schema(file: str | None) -> str | None:
    """The schema of `--json-schema`: of a file, or given as it is."""
    if file is None or file.lstrip().startswith("{"):
        return file
    return read_text_of(file, "schema file")


def read_lark(file: str | None) -> str | None:
    """The grammar in the file of `--lark`."""
    return None if file is None else read_text_of(file, "grammar file")


def read_choices(choices: list[str] | None) -> tuple[str, ...]:
    """The texts of `--choice`."""
    return tuple(choices or ())


def read_ids(ids: list[int] | None) -> tuple[int, ...]:
    """Those of `--stop-token-id`."""
    return tuple(ids or ())


def read_prompts(prompts: list[str], file: str | None) -> tuple[str, ...]:
    """The prompts of `--prompt` (one or more), or the one in the file of `--prompt-file` ("-": standard input)."""
    if prompts and file is not None:
        raise BadRequest("--prompt and --prompt-file cannot be used together; leave one of them out.")
    if file is None:
        if not prompts:
            raise BadRequest('There is no prompt. Add --prompt "some text" or --prompt-file FILE.')
        if not all(prompt.strip() for prompt in prompts):
            raise BadRequest("--prompt must not be empty.")
        try:
            return tuple(_whole(prompt) for prompt in prompts)
        except UnicodeError as error:
            raise BadRequest(
                "--prompt is not text in UTF-8. Give it as UTF-8, or in a file with --prompt-file."
            ) from error
    text = read_text_of(file, "prompt file")
    if not text.strip():
        name = "standard input" if file == "-" else f"the prompt file {quoted(file)}"
        raise BadRequest(f"There is no prompt: {name} is empty.")
    return (text,)


def _whole(text: str) -> str:
    """An argument as UTF-8: what the locale does not know, Python carries through as lone surrogates.

    Raises:
        UnicodeError: it is something else.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8")
    return text

"""What `shardnet generate` was asked to do, checked before anything is started."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from shardnet.cluster.placement import PLACEMENTS
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.plan import DTYPES
from shardnet.planner import OBJECTIVES

DEFAULT_DEVICES = 3
MOST_PROMPT_BYTES = 16 * 2**20


@dataclass(frozen=True)
class GenerateOptions:
    """A request of the command line. Impossible values raise `BadRequest` with one sentence."""

    model: str
    prompts: tuple[str, ...]
    chat: bool = False
    devices: int | None = None
    """Local devices to start; None: one for each part of `split`, or three, or those of `cluster`."""
    cluster: str | None = None
    """Where a running cluster meets, "HOST:PORT"."""
    is_launched: bool = False
    """`shardnet-run` started this, and its devices are used."""
    threads: int | None = None
    dtype: str = "bfloat16"
    placement: str = "spread"
    objective: str = "latency"
    in_flight: int = 1
    """Sessions under way at once for which the placement is made."""
    split: tuple[int, ...] | None = None
    context_tokens: int | None = None
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    profile: Path | None = None
    json: bool = False
    stats: bool = False

    def __post_init__(self) -> None:
        for option, number in (
            ("--devices", self.devices),
            ("--in-flight", self.in_flight),
            ("--max-new-tokens", self.max_new_tokens),
            ("--threads", self.threads),
            ("--context", self.context_tokens),
        ):
            if number is not None and number < 1:
                raise BadRequest(f"{option} must be 1 or more, but is {quoted(number)}.")
        if not self.model.strip():
            raise BadRequest("--model must not be empty; give a folder, a .gguf file, or a hub id.")
        num_cores = os.cpu_count() or 1
        if self.threads is not None and self.threads > num_cores:
            raise BadRequest(f"--threads is {quoted(self.threads)}, but this machine has {num_cores} cores; use fewer.")
        if self.devices is not None and self.cluster is not None:
            raise BadRequest("--devices starts local devices, --cluster uses running ones; leave one of them out.")
        if self.threads is not None and self.uses_running_devices:
            raise BadRequest("--threads is for local devices; those of a cluster have theirs already.")
        for option, word, words in (
            ("--dtype", self.dtype, DTYPES),
            ("--placement", self.placement, PLACEMENTS),
            ("--objective", self.objective, OBJECTIVES),
        ):
            if word not in words:
                raise BadRequest(f"{option} must be one of {', '.join(words)}, but is {quoted(word)}.")
        if not all(self.stop):
            raise BadRequest("--stop must not be empty; leave it out to stop where the model ends its text.")
        if self.split is not None and self.devices is not None and len(self.split) != self.devices:
            raise BadRequest(f"--split names {len(self.split)} shards for {self.devices} devices; name one per device.")

    @property
    def uses_running_devices(self) -> bool:
        return self.cluster is not None or self.is_launched

    @property
    def num_local_devices(self) -> int:
        """How many to start, where no running cluster is used: those that the split names, or three."""
        return self.devices or len(self.split or ()) or DEFAULT_DEVICES

    @property
    def sampling(self) -> dict[str, Any]:
        """The keyword arguments of `Model.stream` that say how tokens are chosen."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
        }

    def check_environment(self) -> None:
        """Check what needs torch or the disk: sampling values, and the folder for a profile."""
        from shardnet.stage.sampling import check_sampling
        from shardnet.timeline.report import require_extras, require_writable
        from shardnet.transport.messages import SamplingOptions

        wrong = check_sampling(SamplingOptions(**{**self.sampling, "seed": self.seed or 0}))
        if wrong:
            raise BadRequest(f"--{wrong}")
        if self.profile is not None:
            require_extras()
            require_writable(self.profile)


def read_prompts(prompts: list[str], file: str | None) -> tuple[str, ...]:
    """The prompts of `--prompt` (one or more), or the one in the file of `--prompt-file` ("-": standard input)."""
    if prompts and file is not None:
        raise BadRequest("--prompt and --prompt-file cannot be used together; leave one of them out.")
    if file is None:
        if not prompts:
            raise BadRequest('There is no prompt. Add --prompt "some text" or --prompt-file FILE.')
        if not all(prompt.strip() for prompt in prompts):
            raise BadRequest("--prompt must not be empty.")
        if any(_is_undecodable(prompt) for prompt in prompts):
            raise BadRequest("--prompt is not text in UTF-8. Give it as UTF-8, or in a file with --prompt-file.")
        return tuple(prompts)
    text, name = (_read_stdin(), "standard input") if file == "-" else (_read(file), f"the prompt file {quoted(file)}")
    if not text.strip():
        raise BadRequest(f"There is no prompt: {name} is empty.")
    return (text,)


def read_split(text: str | None) -> tuple[int, ...] | None:
    """Units per device from "10,10,12"."""
    if text is None:
        return None
    try:
        counts = tuple(int(count) for count in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise BadRequest(f"--split must be whole numbers of units such as 10,10,12, but is {quoted(text)}.")
    return counts


def _is_undecodable(text: str) -> bool:
    """Python carries bytes that are no UTF-8 through arguments and standard input as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _read_stdin() -> str:
    if sys.stdin is None:  # closed by whoever started this
        return ""
    return _text_of(sys.stdin.buffer, "standard input")


def _read(file: str) -> str:
    """Of a file, or of a pipe such as the shell makes of <(command)."""
    shown = f"the prompt file {quoted(file)}"
    try:
        # Without blocking: opening a pipe that nobody writes to would wait for ever.
        with open(file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as opened:
            os.set_blocking(opened.fileno(), True)
            return _text_of(opened, shown)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise BadRequest(f"{_capitalised(shown)} cannot be read: {reason}.") from error


def _text_of(file: BinaryIO, shown: str) -> str:
    raw = file.read(MOST_PROMPT_BYTES + 1)
    if len(raw) > MOST_PROMPT_BYTES:
        raise BadRequest(f"{_capitalised(shown)} has more than the {MOST_PROMPT_BYTES} bytes that a prompt may have.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{_capitalised(shown)} is not text in UTF-8 (byte {error.start}).") from error


def _capitalised(words: str) -> str:
    return words[:1].upper() + words[1:]

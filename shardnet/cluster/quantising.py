"""A checkpoint becomes one of 4 bits by what a text shows, unit by unit, on the devices that would hold them.

Unit by unit a device reads its weights, gets the text as the quantised units before have it, and gives back matrices of
4 bits, and the text behind them. So no device has more than one unit in floats, and a device that is lost takes
nothing along: another one is asked the same. What comes of it does not depend on which device does what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shardnet.calibration.answers import fault_of
from shardnet.calibration.folder import QuantisedFolder, contents_of
from shardnet.errors import BadRequest, ClusterError, DamagedCheckpoint, DeviceLost, UnsupportedModel
from shardnet.foreign.quoting import counted, quoted
from shardnet.loader import ModelFiles
from shardnet.loader.files import skeleton_of
from shardnet.models.experts import unlike_usual
from shardnet.models.plain_config import as_text
from shardnet.plan import StagePlan
from shardnet.progress import Progress
from shardnet.quantised.schemes import FOUR_BITS
from shardnet.transport.base import Transport
from shardnet.transport.calibration_messages import QuantisedUnit
from shardnet.transport.holding_messages import Holding
from shardnet.transport.messages import RingId, RingStop, StageSpec

WINDOW_TOKENS = 512
LEAST_TOKENS = 256
"""Of a text that may say anything about a model."""
MOST_TOKENS = 2**16
"""Hidden states of all of them are in the coordinator's memory and in a device's, and travel with each unit."""
LONGEST_S = 24 * 3600.0
LOOK_S = 0.5
METHOD = "gptq-2"
"""To be changed with whatever changes the codes, so that nothing half done is gone on with in another way."""


@dataclass(frozen=True)
class Job:
    """What is to be made of what."""

    opened: ModelFiles
    """As `open_model` gave it."""
    named: ModelFiles
    """The same under a name by which devices find it, and which says what is in it."""
    scheme: str
    ids: tuple[int, ...]
    """Of the text."""
    stages: tuple[StagePlan, ...]
    """Which device is asked first for which units."""
    devices: tuple[str, ...]

    def windows(self) -> tuple[Tensor, ...]:
        """The text in pieces that are read by themselves."""
        size = min(WINDOW_TOKENS, self.opened.profile.context_tokens)
        return torch.tensor(self.ids, dtype=torch.int64).split(size)

    def made_of(self) -> dict[str, str]:
        """See `QuantisedFolder`."""
        text = hashlib.sha256(repr(self.ids).encode()).hexdigest()
        return {"checkpoint": self.named.copy.name, "weights": self.scheme, "text": text, "method": METHOD}


def checked(scheme: str) -> str:
    """One that is made by a text.

    Raises:
        BadRequest: it is made by no text.
    """
    if scheme not in FOUR_BITS:
        raise BadRequest(f"weights must be one of {', '.join(FOUR_BITS)}, but is {quoted(scheme)}.", option="weights")
    return scheme


def check_source(opened: ModelFiles, num_tokens: int) -> None:
    """
    Raises:
        BadRequest: the model was made so already, or the text says too little, or too much.
        UnsupportedModel: it has experts of another form than those that become 4 bits.
    """
    if opened.made_as:
        raise BadRequest(
            f"{opened.name} was quantised to {opened.made_as} already. Name the model that it was made of."
        )
    if num_tokens < LEAST_TOKENS:
        raise BadRequest(
            f"The text has {counted(num_tokens, 'tokens')}, and what a matrix is fed with shows from {LEAST_TOKENS} "
            "tokens on; some thousands are better."
        )
    if num_tokens > MOST_TOKENS:
        raise BadRequest(
            f"The text has {num_tokens} tokens, and each device would have hidden states of all of them in its memory. "
            f"Give {MOST_TOKENS} at most; some thousands are enough."
        )
    _check_experts(opened)


def _check_experts(opened: ModelFiles) -> None:
    for _, modules in skeleton_of(opened.config, opened.copy).units():
        for name in unlike_usual(modules):
            raise UnsupportedModel(
                f"The experts of this {opened.config.model_type} model cannot get 4 bits: {name} has another form than "
                "those that shardnet knows. Use --weights int4, which gives 4 bits to all else, or another model."
            )


def quantise(
    transport: Transport, job: Job, folder: QuantisedFolder, lost: Callable[[], Collection[str]], progress: Progress
) -> int:
    """Make the checkpoint; how many units were done before, in a run that was cut off.

    Args:
        folder: where `begin` was not called yet.
        lost: the devices that are lost by now.

    Raises:
        ClusterError: all devices are lost, or one gives back what cannot be right.
        DamagedCheckpoint: the model makes numbers of the text that are not finite, or its files were changed meanwhile.
        ShardnetError: as loading a unit on a device; a file cannot be written.
    """
    windows = folder.begin() or job.windows()
    num_before, num_units = folder.num_done, job.opened.profile.num_units
    asked = _Asked(transport, job, lost)
    weight_map: dict[str, int] = {}
    for unit in range(num_units):
        if unit < num_before:
            weight_map |= dict.fromkeys(contents_of(job.opened, unit, {}, weight_map), unit)
            continue
        progress("quantising", unit, num_units)
        is_head = unit == num_units - 1
        done = QuantisedUnit({}, ()) if is_head else asked.unit(unit, windows)
        contents = contents_of(job.opened, unit, done.matrices, weight_map)
        folder.add(unit, contents, done.windows, job.opened.copy)
        weight_map |= dict.fromkeys(contents, unit)
        windows = done.windows
    folder.finish(job.opened, job.scheme, weight_map)
    progress("quantising", num_units, num_units)
    return num_before


class _Asked:
    """The devices, for one unit after the other."""

    def __init__(self, transport: Transport, job: Job, lost: Callable[[], Collection[str]]) -> None:
        self._transport = transport
        self._job = job
        self._lost = lost
        self._gone: set[str] = set()

    def unit(self, unit: int, windows: Sequence[Tensor]) -> QuantisedUnit:
        """By the first device in turn that is there."""
        stages = self._job.stages
        first = next(index for index, stage in enumerate(stages) if stage.first_unit <= unit <= stage.last_unit)
        in_turn = (stage.device for stage in (*stages[first:], *stages[:first]))
        for device in dict.fromkeys((*in_turn, *self._job.devices)):
            if device in self._gone or device in self._lost():
                continue
            try:
                answer = self._ask(device, unit, windows)
            except DeviceLost:
                self._gone.add(device)
                continue
            self._check(device, unit, windows, answer)
            return answer
        raise ClusterError("every device is lost. Start others, and give the same command again: it goes on there.")

    def _ask(self, device: str, unit: int, windows: Sequence[Tensor]) -> QuantisedUnit:
        spec = self._spec(device, unit)
        asked: Future[Any] = self._transport.call(device, "quantise_unit", spec, tuple(windows), timeout_s=LONGEST_S)
        while not wait((asked,), timeout=LOOK_S).done:
            if device in self._lost():
                raise DeviceLost(f"{device} is lost.")
        answer: QuantisedUnit = asked.result()
        return answer

    def _check(self, device: str, unit: int, windows: Sequence[Tensor], answer: QuantisedUnit) -> None:
        """
        Raises:
            DamagedCheckpoint: the model makes numbers of the text that are not finite.
            ClusterError: it cannot be what was asked for.
        """
        files = self._job.named
        if not all(window.isfinite().all() for window in answer.windows):
            raise DamagedCheckpoint(
                f"The text behind unit {unit} of {files.name} is no longer of finite numbers. Download the model "
                "again, or use another one."
            )
        tensors = files.tensors_of(unit, unit)
        fault = fault_of(answer, self._job.scheme, tensors, windows, files.config.hidden_size)
        if fault:
            raise ClusterError(
                f"{device} gave back {fault} for unit {unit} of {files.name}. Leave it out, and give the same command "
                "again: it goes on there."
            )

    def _spec(self, device: str, unit: int) -> StageSpec:
        files = self._job.named
        return StageSpec(
            ring_id=RingId(b"", 0),
            stage=0,
            ring=(RingStop(device, unit, unit, "float32"),),
            source=self._transport.name,
            checkpoint=files.copy.name,
            config=as_text(files.config),
            tensors=files.roots_of(unit, unit),
            dtype="float32",
            kv_budget_bytes=0,
            prefill_chunk_tokens=1,
            record_spans=False,
            deployment=0,
            holding=Holding(self._job.scheme),
        )

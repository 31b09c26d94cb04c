"""A device gives units 4 bits, one at a time, for whoever calibrates a checkpoint. Nothing of them stays."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

import torch
from torch import Tensor

from shardnet.calibration.unit import calibrate, check_windows, outputs_of, text_bytes, working_bytes
from shardnet.device.premises import Premises
from shardnet.errors import BadRequest
from shardnet.loader import load_shard
from shardnet.models import Shard
from shardnet.models.plain_config import from_text
from shardnet.process.threads import on_thread
from shardnet.quantised.schemes import FOUR_BITS
from shardnet.transport.calibration_messages import QuantisedUnit
from shardnet.transport.messages import StageSpec

WIDE = "float32"
"""In which units are calibrated, whatever they will compute in."""


class Quantising:
    """Of one device."""

    def __init__(self, premises: Premises) -> None:
        self.unread_bytes = self.untouched_bytes = self.untouched_bytes_beside = 0
        """See `TakesMemory`."""
        self._premises = premises
        self._lock = threading.Lock()

    def unit(self, spec: StageSpec, windows: Sequence[Tensor]) -> Future[QuantisedUnit]:
        """The one unit of a stage, and what comes of the text behind it.

        Args:
            spec: whose `holding` says the scheme.
            windows: of the text: ids [T] for the embedding, else hidden states [T, H] in float32.

        The future fails with BadRequest where this is no scheme of 4 bits, or the text is none for this unit; with
        DoesNotFit where there is no room.
        """
        return on_thread("shardnet-quantise", partial(self._unit, spec, windows))

    def _unit(self, spec: StageSpec, windows: Sequence[Tensor]) -> QuantisedUnit:
        if spec.holding.scheme not in FOUR_BITS:
            raise BadRequest(f"{spec.holding.scheme} is not one of {', '.join(FOUR_BITS)}, which are made by a text.")
        with self._lock:
            torch.set_num_threads(self._premises.num_threads)
            reserved: list[int] = []
            try:
                shard = self._load(spec, reserved)
                check_windows(shard, windows)
                self._reserve(reserved, text_bytes(shard, windows))
                if shard.has_embedding:
                    return QuantisedUnit({}, outputs_of(shard, windows))
                self._reserve(reserved, working_bytes(shard, spec.holding.scheme, windows))
                matrices = calibrate(shard, windows, spec.holding.scheme, tuple(spec.tensors))
                return QuantisedUnit(matrices, outputs_of(shard, windows))
            finally:
                shard = None  # type: ignore[assignment]  # before its memory is given back
                self._premises.memory.budget.release(sum(reserved))
                self._premises.memory.return_freed()

    def _reserve(self, reserved: list[int], num_bytes: int) -> None:
        self._premises.memory.reserve_weights(num_bytes, self)
        self.unread_bytes = 0
        reserved.append(num_bytes)

    def _load(self, spec: StageSpec, reserved: list[int]) -> Shard:
        here, stop = self._premises, spec.ring[spec.stage]
        scheme = spec.holding.scheme if stop.first_unit == 0 else WIDE
        with here.depot.copy_for(spec, lambda: None) as copy, copy.at_rest():
            return load_shard(
                from_text(spec.config),
                copy.places_of(spec.tensors),
                *(stop.first_unit, stop.last_unit, WIDE),
                reserve=partial(self._reserve, reserved),
                device=here.device,
                scheme=scheme,
            )

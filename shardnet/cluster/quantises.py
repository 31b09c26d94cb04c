"""A cluster that makes a checkpoint of 4 bits: `Cluster.quantise`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any

from shardnet.calibration.folder import QuantisedFolder
from shardnet.cluster.copies import require_copies
from shardnet.cluster.load_options import split_of
from shardnet.cluster.placement import given_plan
from shardnet.cluster.quantising import Job, check_source, checked, quantise
from shardnet.cluster.watch import Watch
from shardnet.errors import BadRequest, ClusterError
from shardnet.foreign.quoting import quoted
from shardnet.loader import ModelFiles, fingerprint, open_model
from shardnet.process.cache_folder import cache_folder
from shardnet.progress import Progress, in_turn, shown
from shardnet.quantised.schemes import INT4
from shardnet.session.prompts import encode
from shardnet.shipping.dispatch import Dispatch
from shardnet.transport.base import Transport

SHIPPED_TEXT = "texts/for_calibration.txt"
READ_AS = "bfloat16"
"""What a model is opened for: a GGUF file that has to be converted is converted to it."""


class CanQuantise(ABC):
    """The part of a cluster that does it."""

    devices: tuple[str, ...]
    _transport: Transport
    _dispatch: Dispatch
    _watch: Watch

    @abstractmethod
    def _check_open(self) -> None: ...

    def quantise(
        self,
        model: str | Path,
        out: str | Path,
        *,
        weights: str = INT4,
        text: str | None = None,
        split: Sequence[int] | None = None,
        cache_dir: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Make a checkpoint of 4 bits with less loss than by rounding: by what a text shows of each matrix's inputs.

        Unit by unit on the devices, none of which has more than one unit in floats. What comes of it is loaded, placed
        and shipped as any other model, and does not depend on the devices and the split. A run that was cut off goes on
        in its folder.

        Args:
            model: as for `load`, in 16 bits or more, as far as there is one.
            out: a new folder; or that of a run with the same model, weights and text that was cut off.
            weights: "int4", "int4-g64", "int4-g128" or "int4-sym".
            text: some thousand tokens of what the model is used for; None takes a text that comes with shardnet.
            split: units of each device; None gives all as many.
            cache_dir: as for `load`.
            progress: told how far it is; None shows a bar on a terminal.

        Returns:
            The folder.

        Raises:
            ModelNotFound, UnsupportedModel, DamagedCheckpoint, BadRequest, UsageError, DoesNotFit, ClusterError.
        """
        self._check_open()
        path = _path_of(out)
        devices = [device for device in self.devices if device not in self._watch.lost]
        if not devices:
            raise ClusterError("every device of this cluster is lost. Start a new one.")
        with shown(progress) as caller, in_turn(caller) as told:
            opened = open_model(
                str(model), READ_AS, weights=checked(weights), cache_dir=cache_folder(cache_dir), progress=told
            )
            ids = _ids_of(calibration_text() if text is None else text, opened)
            check_source(opened, len(ids))
            counts = even_split(opened.profile.num_units, len(devices)) if split is None else split_of(split)
            stages = given_plan(counts, opened.profile, devices, 0).stages
            # A run that was cut off goes on with what is the same, wherever it lies by now.
            same = fingerprint(opened.copy, cache_folder(cache_dir), told)
            assert same is not None, "there was no limit"
            named = require_copies(opened.under(same), devices, self._dispatch, cache_folder(cache_dir), told)
            job = Job(opened, named, weights, ids, stages, tuple(devices))
            folder = QuantisedFolder(path, job.opened.profile.num_units, job.made_of())
            with closing(folder):
                quantise(self._transport, job, folder, lambda: self._watch.lost, told)
            return folder.path


def _path_of(out: Any) -> Path:
    if not isinstance(out, (str, Path)) or "\0" in str(out):
        raise BadRequest(f"out is the name of a new folder, but this is {quoted(out)}.", option="out")
    return Path(out)


def _ids_of(text: Any, opened: ModelFiles) -> tuple[int, ...]:
    if not isinstance(text, str):
        raise BadRequest(f"a text to quantise by is a string, but this is {quoted(text)}.", option="text")
    if not text.strip():
        raise BadRequest("The text is empty. Give some thousand tokens of what the model is used for.")
    profile = opened.profile
    return tuple(encode(text, opened.tokenizer(), chat=False, vocabulary=profile.vocabulary, model=profile.name))


def calibration_text() -> str:
    """What comes with shardnet for it."""
    return resources.files("shardnet.configs_data").joinpath(SHIPPED_TEXT).read_text("utf-8")


def even_split(num_units: int, num_devices: int) -> tuple[int, ...]:
    """As many units for each, as nearly as it goes."""
    least, more = divmod(num_units, num_devices)
    return tuple(least + (index < more) for index in range(num_devices))

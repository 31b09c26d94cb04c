"""The folder that a quantised checkpoint is written to, unit by unit, so that a run that was cut off goes on in it.

unit-00003.safetensors     its matrices of 4 bits, and all else that it has, as the model it is made of has that
hidden-00003.safetensors   the text behind that unit: of the last one that is done
unfinished.json            what is made of what, and how many units are done; gone when all are
config.json                comes last: a folder without one is no model
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from shardnet.errors import BadRequest, DamagedCheckpoint, UsageError
from shardnet.foreign.plain_files import read_json
from shardnet.foreign.quoting import shortened
from shardnet.loader.copies import Copy, being_changed, config_of
from shardnet.loader.files import ModelFiles
from shardnet.loader.folder import OWN_METHOD, QUANTISED, TEXT_ENDINGS
from shardnet.loader.tensor_files import Content, floats, read_floats_of, write_tensors
from shardnet.loader.whole_files import PART, write_json, write_whole
from shardnet.transport.calibration_messages import QuantisedMatrix

UNFINISHED, CONFIG, INDEX = "unfinished.json", "config.json", "model.safetensors.index.json"
MOST_BYTES = 1 << 16
_LISTS = (CONFIG, INDEX, "gguf.json")

_Read = TypeVar("_Read")


class QuantisedFolder:
    """
    Args:
        made_of: what tells one run from another: model, scheme, text. A folder goes on with the same alone.
    """

    def __init__(self, path: Path, num_units: int, made_of: Mapping[str, Any]) -> None:
        self.path = path
        self._num_units = num_units
        self._made_of = dict(made_of)
        self.num_done = 0
        """Units."""
        self._claimed: int | None = None

    def begin(self) -> tuple[Tensor, ...]:
        """Make the folder, or find out how far it is; the text's hidden states behind the last unit that is done.

        Raises:
            BadRequest: something else is there.
            UsageError: it cannot be written, or what is there cannot be read.
        """
        shown = shortened(str(self.path))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._claim()  # first of all: another run may be through with it at any moment
            if (self.path / UNFINISHED).is_file():
                return self._go_on()
            require_own_place(self.path)
            write_json(self.path / UNFINISHED, self._state(0))
        except FileExistsError as cause:
            raise _taken(self.path) from cause
        except OSError as cause:
            raise UsageError(f"Cannot write {shown}: {cause.strerror}. Name another folder with --out.") from cause
        return ()

    def add(self, unit: int, tensors: Mapping[str, Content], windows: Sequence[Tensor], source: Copy) -> None:
        """Write a unit, and the text behind it.

        Args:
            source: what is copied is read from it.

        Raises:
            UsageError: it cannot be written.
            DamagedCheckpoint: the source is no longer what it was when it was opened; the unit is not done then.
        """
        hidden = {f"{index:05}": floats(window) for index, window in enumerate(windows)}
        try:
            write_tensors(self._unit(unit), tensors)
            if not source.is_unchanged():
                raise being_changed(source.folder)
            if hidden:
                write_tensors(self._hidden(unit), hidden)
            write_json(self.path / UNFINISHED, self._state(unit + 1))
            self.num_done = unit + 1
            self._hidden(unit - 1).unlink(missing_ok=True)
        except OSError as cause:
            raise self._not_written(cause) from cause

    def finish(self, files: ModelFiles, scheme: str, weight_map: Mapping[str, int]) -> None:
        """Write what makes a model of it.

        Args:
            files: of the model that it is made of.
            weight_map: the unit of each tensor.

        Raises:
            UsageError: it cannot be written.
        """
        config = json.loads(config_of(files.folder))
        config[QUANTISED] = {"quant_method": OWN_METHOD, "weights": scheme, "bits": 4}
        index = {"metadata": {}, "weight_map": {name: self._unit(unit).name for name, unit in weight_map.items()}}
        try:
            for name in sorted(os.listdir(files.folder)):
                if name.endswith(TEXT_ENDINGS) and name not in _LISTS and (files.folder / name).is_file():
                    shutil.copyfile(files.folder / name, self.path / name)
            write_json(self.path / INDEX, index)
            write_whole(self.path / CONFIG, json.dumps(config, indent=1).encode())
            for name in (INDEX, CONFIG):
                os.chmod(self.path / name, 0o644)
            self._remove("hidden-*.safetensors")
            (self.path / UNFINISHED).unlink()
        except OSError as cause:
            raise self._not_written(cause) from cause

    def close(self) -> None:
        """Others may write there. Safe to call twice."""
        if self._claimed is not None:
            os.close(self._claimed)
            self._claimed = None

    def _claim(self) -> None:
        """Until `close`, or the end of this process, no other run writes there."""
        self._claimed = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            self.close()
            raise BadRequest(
                f"Another run is writing in {shortened(str(self.path))}. Wait until it is through."
            ) from cause

    def _remove(self, pattern: str) -> None:
        for path in self.path.glob(pattern):
            path.unlink()

    def _go_on(self) -> tuple[Tensor, ...]:
        shown = shortened(str(self.path))
        state = self._read(UNFINISHED, lambda path: read_json(path, MOST_BYTES, "the file", DamagedCheckpoint))
        num_done = state.get("units_done") if isinstance(state, dict) else None
        if type(num_done) is not int or not 0 <= num_done <= self._num_units or state != self._state(num_done):
            raise BadRequest(
                f"In {shown} another model, scheme or text is half done. Go on with that, or name a new folder with "
                "--out."
            )
        self._remove(f"*{PART}")  # what a run that was killed was writing
        self.num_done = num_done
        hidden = self._hidden(num_done - 1)
        if num_done == self._num_units:
            return ()
        if not all(self._unit(unit).is_file() for unit in range(num_done)) or not hidden.is_file():
            self.num_done = 0
            return ()
        windows = self._read(hidden.name, read_floats_of)
        return tuple(window for _, window in sorted(windows.items()))

    def _read(self, name: str, read: Callable[[Path], _Read]) -> _Read:
        try:
            return read(self.path / name)
        except (OSError, DamagedCheckpoint) as cause:
            shown = shortened(str(self.path))
            raise UsageError(f"{name} in {shown} cannot be read. Remove {shown}, and begin anew.") from cause

    def _state(self, num_done: int) -> dict[str, Any]:
        return {"made_of": self._made_of, "units_done": num_done}

    def _unit(self, unit: int) -> Path:
        return self.path / f"unit-{unit:05}.safetensors"

    def _hidden(self, unit: int) -> Path:
        return self.path / f"hidden-{unit:05}.safetensors"

    def _not_written(self, cause: OSError) -> UsageError:
        return UsageError(
            f"Cannot write in {shortened(str(self.path))}: {cause.strerror or cause}. Make room there, and give the "
            f"same command again: it goes on behind unit {self.num_done - 1}."
            if self.num_done
            else f"Cannot write in {shortened(str(self.path))}: {cause.strerror or cause}. Make room there."
        )


def require_own_place(path: Path) -> None:
    """See that nothing is there but what a run that was cut off has left.

    Raises:
        BadRequest: something else is there.
    """
    with suppress(OSError):  # that it is not there yet, or closed, is said by who writes there
        if (path.exists() and not path.is_dir()) or (any(path.iterdir()) and not (path / UNFINISHED).is_file()):
            raise _taken(path)


def _taken(path: Path) -> BadRequest:
    return BadRequest(f"There is something in {shortened(str(path))} already. Name a new folder with --out.")


def contents_of(
    files: ModelFiles, unit: int, matrices: Mapping[str, QuantisedMatrix], written: Mapping[str, int]
) -> dict[str, Content]:
    """What a unit's file holds, by the names that the checkpoint has for its tensors.

    Args:
        files: of the model, as it was opened: each tensor has a place of its own.
        matrices: by the names that the model has for them.
        written: those that a unit before has.
    """
    at = {place: name for name, place in files.copy.tensors.items()}
    contents: dict[str, Content] = {}
    for key, place in files.tensors_of(unit, unit).items():
        name, matrix = at[place], matrices.get(key)
        if name in written:
            continue
        stored, source = (place.dtype, place) if matrix is None else (matrix.stored, matrix.blocks)
        contents[name] = Content(stored, place.shape, source)
    return contents

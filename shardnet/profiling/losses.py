"""What weights of few bits cost a model, as `shardnet quality` has measured it: kept by checkpoint.

One JSON file for each checkpoint, which is named by its content.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from shardnet.described.schema import Place, read_record
from shardnet.errors import BadConfiguration, UsageError
from shardnet.foreign.bounds import TOKENS
from shardnet.foreign.plain_files import read_json

FOLDER = "losses"
"""In the cache folder."""
MAX_FILE_BYTES = 2**20
FORMAT = 1


@dataclass(frozen=True)
class Loss:
    """Of one scheme."""

    change: float
    """Of the perplexity, against weights that are not rounded: 0.01 is one percent more."""
    num_tokens: Annotated[int, TOKENS]
    """Of the text that was read."""
    text: str
    """What it is called."""


class LossStore:
    """What was measured of each checkpoint."""

    def __init__(self, cache_dir: Path) -> None:
        self._folder = cache_dir / FOLDER

    def load(self, checkpoint: str) -> dict[str, Loss]:
        """By scheme; nothing where nothing was measured, or the file is none."""
        try:
            values = read_json(self._path(checkpoint), MAX_FILE_BYTES, "the losses")
            if values["format"] != FORMAT or values["checkpoint"] != checkpoint:
                return {}
            return {str(name): read_record(Loss, each, Place(str(name))) for name, each in values["losses"].items()}
        except (BadConfiguration, KeyError, TypeError, AttributeError):
            return {}

    def save(self, checkpoint: str, losses: Mapping[str, Loss]) -> None:
        """Keep these, but for schemes of which more was read before. Of one with which a model knows nothing all is
        forgotten.

        Raises:
            UsageError: the folder cannot be written to.
        """
        kept = self.load(checkpoint)
        for scheme, loss in losses.items():
            if not math.isfinite(loss.change):
                kept.pop(scheme, None)
            elif scheme not in kept or loss.num_tokens >= kept[scheme].num_tokens:
                kept[scheme] = loss
        plain = {scheme: asdict(loss) for scheme, loss in kept.items()}
        text = json.dumps({"format": FORMAT, "checkpoint": checkpoint, "losses": plain}, indent=1)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, suffix=".part", delete=False) as file:
                try:
                    file.write(text)
                    file.flush()
                    os.replace(file.name, self._path(checkpoint))
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as cause:
            raise UsageError(
                f"Cannot keep what was measured in {self._folder}: {cause.strerror or cause}. Make it writable."
            ) from cause

    def _path(self, checkpoint: str) -> Path:
        return self._folder / f"{hashlib.sha256(checkpoint.encode()).hexdigest()[:16]}.json"

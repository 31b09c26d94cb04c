"""feature-extraction: the last hidden states of texts, as lists of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shardnet.cluster.model import Model
from shardnet.tasks.options import NO_POOLING, TaskOptions


class Extracting:
    """Of each text [1, T, H] as transformers' pipeline has it; pooled, [H]."""

    def __init__(self, model: Model, asked: TaskOptions) -> None:
        self._model = model
        self._pooling = asked.pooling or NO_POOLING

    def run(self, texts: Sequence[str]) -> Iterator[Any]:
        """The numbers."""
        if self._pooling != NO_POOLING:
            yield from self._model.embed(texts, pooling=self._pooling).tolist()
            return
        for text in texts:
            yield [self._model.hidden_states(text).tolist()]

"""What the tokens of models spell, as the coordinator says when the first answer is to follow a grammar."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from shardnet.grammars.matching import Matcher, Vocabulary
from shardnet.process.threads import on_thread
from shardnet.transport.base import Transport

MOST = 2
"""Models of which it is kept."""
FETCH_S = 120.0


class Vocabularies:
    """Of one device."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._kept: OrderedDict[str, Future[Vocabulary]] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, checkpoint: str, source: Callable[[], str], grammar: str) -> Future[Matcher]:
        """For one answer of a model. Fails as `Vocabulary`, and where the coordinator does not answer.

        Args:
            source: says who its coordinator is now.
        """
        return on_thread("shardnet-grammar", partial(self._matcher, checkpoint, source, grammar))

    def _matcher(self, checkpoint: str, source: Callable[[], str], grammar: str) -> Matcher:
        return self._vocabulary(checkpoint, source).matcher(grammar)

    def _vocabulary(self, checkpoint: str, source: Callable[[], str]) -> Vocabulary:
        """The one that is kept, or is coming; else it is fetched here."""
        with self._lock:
            known = self._kept.get(checkpoint)
            mine: Future[Vocabulary] = Future() if known is None else known
            self._kept[checkpoint] = mine
            self._kept.move_to_end(checkpoint)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        if known is not None:
            return known.result()
        try:
            packed = self._transport.call(source(), "model_vocabulary", checkpoint, timeout_s=FETCH_S).result()
            mine.set_result(Vocabulary(packed))
        except BaseException as error:
            with self._lock:
                if self._kept.get(checkpoint) is mine:
                    del self._kept[checkpoint]
            mine.set_exception(error)
            raise
        return mine.result()

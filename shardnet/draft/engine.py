"""A small model at work on a thread of its own: it computes what may come next of the answers that it goes ahead of.

All units are in one shard, with a KV cache of its own. Answers that want a token share its steps. What a chain cuts off
is cut off here before its next step, and what is computed stays when an answer ends, for one that begins alike.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from shardnet.draft.chain import Chain, Step
from shardnet.draft.choosing import Choosing
from shardnet.errors import KVMemorySpent
from shardnet.models import Segment, Shard
from shardnet.models.sizes import context_of
from shardnet.process.forks import Birthplace
from shardnet.session.beginnings import Beginnings
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.cache import KVCache
from shardnet.stage.session_cache import SessionCache
from shardnet.transport.offer_messages import Offer
from shardnet.transport.session_messages import SessionSpec

CHUNK_TOKENS = 64
"""Of one answer, in one step."""
END_S = 5.0
"""How long the end of a process waits for a step."""
_log = logging.getLogger(__name__)


class Guessing:
    """What is guessed of one answer, for as long as somebody holds this. See `Onlooker`."""

    def __init__(self, engine: Engine, chain: Chain, choosing: Choosing, tell: Callable[[Offer], object]) -> None:
        self.chain = chain
        self.choosing = choosing
        self.tell = tell
        self._engine = engine

    def see(self, token_ids: Sequence[int]) -> None:
        """See `Onlooker`."""
        with self._engine.changed:
            self.chain.hear(token_ids)
            self._engine.changed.notify()

    def end(self) -> None:
        """Nothing more is wanted of it."""
        self._engine.give_up(self.chain)


@dataclass(slots=True)
class _Open:
    """An answer that has its place in the cache."""

    guessing: weakref.ref[Guessing]
    chain: Chain
    kv: SessionCache


class Engine:
    """
    Args:
        shard: all units of the small model.
        budget: for its KV cache.
        vocabulary: see `Choosing`.
    """

    def __init__(self, shard: Shard, budget: MemoryBudget, vocabulary: int, num_threads: int) -> None:
        self.changed = threading.Condition()
        """Held while chains change."""
        self._shard = shard
        self._kv = KVCache(shard.kv_layout, shard.kv_row_dtype, budget, device=shard.device)
        self._context_tokens, self._dtype = context_of(shard.config), shard.dtype
        self._vocabulary, self._num_ids = vocabulary, int(shard.config.vocab_size)
        self._num_threads = num_threads
        self._waiting: weakref.WeakSet[Guessing] = weakref.WeakSet()
        """Those that have no place in the cache yet."""
        self._open: dict[int, _Open] = {}
        self._beginnings = Beginnings()
        self._next_number = 0
        self._is_closed = False
        self._birthplace = Birthplace("this draft")
        self._thread = threading.Thread(target=self._work, name="shardnet-draft", daemon=True)
        atexit.register(self._end)  # a thread that is in torch then would end the process by force
        self._thread.start()

    def guess(self, spec: SessionSpec, prompt_ids: Sequence[int], tell: Callable[[Offer], object]) -> Guessing:
        """Go ahead of an answer, whose tokens it is to be shown, until nobody holds what is returned, or that ends it.

        Args:
            tell: told, on this thread, what may come next. Must not wait.
        """
        chain = Chain(spec, prompt_ids, self._context_tokens, self._num_ids)
        choosing = Choosing(spec._replace(prompt_ids=()), self._dtype, self._vocabulary)
        guessing = Guessing(self, chain, choosing, tell)
        with self.changed:
            self._waiting.add(guessing)
        return guessing

    def give_up(self, chain: Chain) -> None:
        """Guess no more of it, and take its place."""
        if self._birthplace.is_here:
            with self.changed:
                chain.is_over = True
                self.changed.notify()

    def close(self) -> None:
        """End the thread behind the step that runs, and guess no more. Safe to call twice; does not wait."""
        if self._birthplace.is_here:
            with self.changed:
                self._is_closed = True
                self.changed.notify()

    def _end(self) -> None:
        """The same, and wait for it."""
        self.close()
        if self._birthplace.is_here:
            self._thread.join(END_S)

    def _work(self) -> None:
        _compute_with(self._num_threads)
        try:
            with torch.inference_mode():
                while self._do_step():
                    pass
        except Exception as error:  # whatever it is: answers go on without
            _log.warning("answers go on without the draft: %s: %s", type(error).__name__, error)
        with self.changed:
            self._is_closed = True
            self._open.clear()
            self._waiting.clear()
        del self._shard, self._kv
        atexit.unregister(self._end)

    def _do_step(self) -> bool:
        """Wait for work and do it; False at the end. A function of its own, lest who waits holds what it did last."""
        found = self._next()
        if found is None:
            return False
        steps = [(guessing, self._open[number], step) for number, guessing, step in found]
        for _, opened, step in steps:
            opened.kv.length = step.first
        segments = [Segment(opened.kv, len(step.ids), int(step.is_last)) for _, opened, step in steps]
        ids = torch.tensor([token_id for _, _, step in steps for token_id in step.ids])
        logits_SV = self._shard.forward(ids, segments)
        row = 0
        for guessing, opened, step in steps:
            opened.kv.length = step.end
            self._note(guessing, step, logits_SV[row] if step.is_last else None)
            row += step.is_last
        return True

    def _note(self, guessing: Guessing, step: Step, logits_V: torch.Tensor | None) -> None:
        chain, guess = guessing.chain, None
        if logits_V is not None:
            with self.changed:
                ids = chain.known_before(step)
            guess = guessing.choosing.choose(logits_V, step.end - chain.spec.prompt_tokens, ids)
        with self.changed:
            if logits_V is not None and guess is None:
                chain.is_over = True
            offer = chain.offer() if chain.computed(step, guess) else None
        if offer is not None:
            guessing.tell(offer)

    def _next(self) -> list[tuple[int, Guessing, Step]] | None:
        """What goes into the next step, once there is something; None at the end."""
        while not self._is_closed:
            self._close_ended()
            self._open_new()
            with self.changed:
                found = self._wanted()
                if found:
                    return found
                if not (self._is_closed or self._new() or self._ended()):
                    self.changed.wait()
        return None

    def _wanted(self) -> list[tuple[int, Guessing, Step]]:
        return [
            (number, guessing, opened.chain.next_step(CHUNK_TOKENS))
            for number, opened in self._open.items()
            if opened.chain.wants_more() and (guessing := opened.guessing()) is not None
        ]

    def _new(self) -> list[Guessing]:
        """Those that have something to compute and no place in the cache. The caller holds `changed`."""
        for over in [each for each in self._waiting if each.chain.is_over]:
            self._waiting.discard(over)
        return [each for each in self._waiting if each.chain.wants_more()]

    def _open_new(self) -> None:
        """Give them one; who finds no room is given up. Not under the lock: tokens of others may be copied."""
        with self.changed:
            new = [(each, tuple(each.chain.known)) for each in self._new()]
        for guessing, ids in new:
            kv = self._place_for(guessing.chain, ids)
            with self.changed:
                self._waiting.discard(guessing)
                if kv is None:
                    guessing.chain.is_over = True
                else:
                    guessing.chain.begin(kv.length)
                    self._open[self._next_number] = _Open(weakref.ref(guessing), guessing.chain, kv)
            self._next_number += 1

    def _place_for(self, chain: Chain, ids: tuple[int, ...]) -> SessionCache | None:
        number, shares = self._next_number, self._beginnings.best(ids)
        try:
            if shares is None:
                return self._kv.open(number, chain.capacity)
            kv = self._kv.open_alike(number, chain.capacity, shares.session, shares.most_tokens)
        except KVMemorySpent:
            return None
        self._beginnings.settle(shares, kv.length)
        return kv

    def _ended(self) -> list[int]:
        """Those that are over, or that nobody holds. The caller holds `changed`."""
        return [number for number, each in self._open.items() if each.chain.is_over or each.guessing() is None]

    def _close_ended(self) -> None:
        """Take their places. What is known of them stays for a while."""
        with self.changed:
            ended = [(number, self._open.pop(number)) for number in self._ended()]
        for number, opened in ended:
            self._kv.forget(number)
            opened.kv.length = min(opened.kv.length, opened.chain.num_safe)
            ids = opened.chain.known[: opened.kv.length]
            self._kv.keep(number, opened.kv, array("q", ids))
            self._beginnings.note(number, tuple(ids))


def _compute_with(num_threads: int) -> None:
    """Let this thread compute with so many. torch gives the number that was set last to threads that begin later, too:
    to those of whoever uses this process, it is set back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    others = threading.Thread(target=torch.set_num_threads, args=(before,))
    others.start()
    others.join()

"""One conversation in flight: its tokens in order, and what is known of it so far."""

from __future__ import annotations

import copy
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from shardnet.errors import BadRequest, ClusterError
from shardnet.session.conversation import Onlooker, Reader
from shardnet.session.reading import PATIENCE_S
from shardnet.transport.confidences import told_to
from shardnet.transport.listener_messages import digest
from shardnet.transport.rows_messages import Rows
from shardnet.transport.session_messages import SampledToken, SessionSpec
from shardnet.transport.sharing_messages import Shares

ASK_AGAIN = " Ask again."


def computed_anew() -> ClusterError:
    """Where an answer is no longer the one that was told. In half precision, after losses, it may be."""
    why = "after losses this answer was computed anew, and it goes on otherwise than it began."
    return ClusterError(why + ASK_AGAIN)


class Owner(Protocol):
    """Whoever opened a session, and closes it on every stage."""

    def close_session(self, session: int) -> None:
        """Free it. Unknown and closed ones are ignored. From any thread."""

    def close_session_later(self, session: int) -> None:
        """The same on another thread: for who may hold locks."""

    def rows_of(self, session: Session, first: int, patience_s: float) -> Rows:
        """See `reading.rows_at_head`."""


class Session:
    """One conversation in flight. Iterate over it for its tokens; it is closed when the iteration ends.

    Raises (from the iteration):
        ShardnetError: the ring broke; `DeviceLost` names the device and the stage.
    """

    def __init__(
        self,
        owner: Owner,
        spec: SessionSpec,
        prompt_ids: Sequence[int],
        answer: Sequence[int] = (),
        *,
        was_left: bool = False,
    ) -> None:
        """
        Args:
            answer: its first tokens, where they are known.
            was_left: another process has begun it, and may have had tokens sampled anew.
        """
        self.spec = spec
        self.prompt_ids = tuple(prompt_ids)
        self.is_begun = False
        """Whether it is open on every stage of its ring, and its prompt is being sent."""
        self.num_shared = 0
        """So many of its tokens the stages had from another session when it began."""
        self.started_s = time.monotonic()
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self._owner = owner
        self._news: queue.SimpleQueue[SampledToken | BaseException | int | None] = queue.SimpleQueue()
        self._held: dict[int, SampledToken] = {}
        self._known: dict[int, SampledToken] = {}
        """Every token that was told of, by its index."""
        self.has_prompt = threading.Event()
        """A token came of it, so that its prompt is computed everywhere; or none will, or some were known before."""
        self._telling = threading.Lock()
        """Held while what is known changes. Who iterates, or lets go of this, does without it."""
        self._takes_ahead = True
        self._may_be_sampled_anew = was_left
        self._onlooker: Onlooker | None = None
        self._num_shown = 0
        self._reader: Reader | None = None
        self._num_handed = 0
        self._failure: BaseException | None = None
        self._is_over = False
        """Nobody wants more of it."""
        for index, token_id in enumerate(answer):
            self.tell(self.token(index, token_id))

    def __iter__(self) -> Iterator[SampledToken]:
        """The tokens in order; news may overtake each other on their way, and come twice. Ends early after `cancel`."""
        end: Callable[[], None] = self.cancel
        try:
            for index in itertools.count():
                while index not in self._held:
                    news = self._news.get()
                    if news is None:
                        return
                    if isinstance(news, int):
                        self._held = {each: token for each, token in self._held.items() if each < news}
                        continue
                    if isinstance(news, BaseException):
                        raise copy.copy(news)  # other sessions raise it at the same time
                    if news.index >= index:
                        self._held[news.index] = news
                token = self._held.pop(index)
                yield token
                if token.finish_reason:
                    return
        except GeneratorExit:
            end = self._cancel_later
            raise
        finally:
            end()

    def _cancel_later(self) -> None:
        """Nobody iterates any more. This may run in the garbage collector, and so in the midst of anything."""
        self._news.put(None)
        self._owner.close_session_later(self.spec.session)

    def cancel(self) -> None:
        """Stop generating and free the session's memory on every stage. Safe to call twice, from any thread."""
        self._news.put(None)
        self._owner.close_session(self.spec.session)
        self._is_over = True
        self._show_end()
        if self._reader is not None:
            self._reader.end(None)

    def rows_from(self, first: int, patience_s: float = PATIENCE_S) -> Rows:
        """See `Reading`."""
        return self._owner.rows_of(self, first, patience_s)

    def raise_if_failed(self) -> None:
        """Raise what has ended it, if it has ended."""
        if self._failure is not None:
            raise copy.copy(self._failure)
        if self._is_over:
            raise BadRequest("this text was given up, and is read no further.")

    def hand_to(self, reader: Reader) -> None:
        """See `Conversation`."""
        with self._telling:
            self._reader = reader
            self._hand()
            if self._failure is not None or self._is_over:
                reader.end(self._failure)

    def _hand(self) -> None:
        """What is known without a gap, and was not handed to the reader yet."""
        new = []
        while self._reader is not None and (token := self._known.get(self._num_handed)) is not None:
            new.append(token)
            self._num_handed += 1
        if self._reader is not None and new:
            self._reader.take(new)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._news.put(error)
        if self._reader is not None:
            self._reader.end(copy.copy(self._failure))

    def show(self, onlooker: Onlooker) -> None:
        """See `Conversation`."""
        with self._telling:
            self._onlooker = onlooker
            self._show()
        self._show_end()

    def _show_end(self) -> None:
        onlooker = self._onlooker
        if self._is_over and onlooker is not None:
            onlooker.end()

    def _show(self) -> None:
        """What is known without a gap, and was not shown yet."""
        new = []
        while self._onlooker is not None and (token := self._known.get(self._num_shown)) is not None:
            new.append(token.token_id)
            self._num_shown += 1
        if self._onlooker is not None and new:
            self._onlooker.see(new)

    @property
    def answer(self) -> list[SampledToken]:
        """The tokens that are known without a gap, from the first one on."""
        known = self._known
        return [known[index] for index in itertools.takewhile(known.__contains__, itertools.count())]

    @property
    def known_ids(self) -> tuple[int, ...]:
        """Their ids."""
        return tuple(token.token_id for token in self.answer)

    @property
    def history(self) -> tuple[int, ...]:
        """The ids of the prompt, and of that answer; of a text that is scored or read, all that are computed."""
        if self.spec.is_given:
            return self.prompt_ids
        return self.prompt_ids + self.known_ids

    def token(self, index: int, token_id: int) -> SampledToken:
        """One of its answer."""
        return SampledToken(self.spec.session, index, token_id, self.spec.finish_reason(index, token_id))

    def spec_at(
        self, ids: Sequence[int], *, is_first: bool, is_last: bool, send_from: int = 0, guess_from: int = 0
    ) -> SessionSpec:
        """What a stage must know of it.

        Args:
            ids: of the prompt, and what is known of the answer, which is not sampled again.
            is_first: whether ids come to the stage.
            is_last: whether the stage has the head: it alone samples, and tells the listener.
            send_from: as in `SessionSpec`; so is `guess_from`.
        """
        spec = self.spec._replace(sample_from=len(ids), send_from=send_from, guess_from=guess_from)
        spec = told_to(spec, is_first=is_first, is_last=is_last)
        if not is_last:
            return spec
        if spec.sampling.needs_ids:
            spec = spec._replace(prompt_ids=tuple(ids))
        if spec.listener is not None:
            known = digest(ids[spec.prompt_tokens :])
            spec = spec._replace(listener=spec.listener._replace(known=known))
        return spec

    def specs(self, num_stages: int, shares: Shares | None) -> list[SessionSpec]:
        """What each stage must know of it when it begins, maybe with the tokens of another one."""
        history, last = self.history, num_stages - 1
        ends = [(index == 0, index == last) for index in range(num_stages)]
        specs = [self.spec_at(history, is_first=first, is_last=last)._replace(shares=shares) for first, last in ends]
        if shares is not None:
            specs[1:] = [spec._replace(shares=shares._replace(ids=())) for spec in specs[1:]]
        return specs

    def history_from_stages(self) -> tuple[int, ...]:
        """Its history as it is settled now: `tell_ahead` adds nothing to it, until `take_ahead`."""
        with self._telling:
            self._takes_ahead = False
            return self.history

    def take_ahead(self) -> None:
        """Whoever sampled what its source has heard straight, goes on sampling. Not where tokens may have been sampled
        anew: one that its source has heard before may not be the one behind which the next is sampled.
        """
        self._takes_ahead = not self._may_be_sampled_anew

    def tell_ahead(self, tokens: Sequence[SampledToken]) -> None:
        """What its source has heard straight."""
        with self._telling:
            for token in tokens if self._takes_ahead else ():
                self._tell(token)

    def cut(self) -> None:
        """Forget what was told behind a gap: it is sampled anew. What was scored is the same whoever tells it."""
        if self.spec.is_given:
            return
        with self._telling:
            self._may_be_sampled_anew, known = True, self.answer
            self._known = dict(enumerate(known))
            self._news.put(len(known))

    def tell(self, news: SampledToken | BaseException) -> None:
        """Another token where one is known ends it: what goes on behind the one is not the answer with the other."""
        with self._telling:
            self._tell(news)

    def _tell(self, news: SampledToken | BaseException) -> None:
        if isinstance(news, SampledToken):
            if self._known.setdefault(news.index, news).token_id != news.token_id:
                self._fail(computed_anew())
                return
            self.last_token_s = time.monotonic()
            if self.first_token_s is None:
                self.first_token_s = self.last_token_s
            self._show()
            self._hand()
        self.has_prompt.set()
        if isinstance(news, SampledToken):
            self._news.put(news)
        else:
            self._fail(news)

"""The tokens of an answer, each with how likely it was: the stage that samples says so, and where that was lost, the
answer is scored once more.

After a loss a token may be known by its id alone: the first stage has it, or a notebook, and who sampled it is gone.
Then prompt and answer go round as a text that is scored, beside the answer, which goes on meanwhile; all that is known
by then at once. Where there is no memory for both, the answer is read to its end first, and its memory is used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from shardnet.errors import ClusterError, KVMemorySpent
from shardnet.process.threads import on_thread
from shardnet.session.conversation import Conversation, Handing, Reader
from shardnet.transport.session_messages import SampledToken, SessionSpec

ROOM_S = 60.0
"""So long others may keep the memory that a text needs, when the answer itself needs none any more."""
LOOK_AGAIN_S = 0.5
TRIES = 3
"""A text is not kept where its coordinator is killed: it is asked for anew."""

Score = Callable[[Sequence[int], int], Conversation]
"""Opens a session that scores a text, with so many alternatives of each token."""


class Likelihoods:
    """Of one answer. Iterate over it in place of its session, once.

    Args:
        prompt_ids: of its prompt.
    """

    def __init__(self, session: Conversation, prompt_ids: Sequence[int], score: Score) -> None:
        self._session = session
        self._prompt_ids = tuple(prompt_ids)
        self._score = score
        self._found: dict[int, SampledToken] = {}
        """What was scored, by its index in the answer."""
        self._scoring: Conversation | None = None
        self._is_cancelled = threading.Event()

    def __iter__(self) -> Iterator[SampledToken]:
        """The tokens of the session in order, each with its log-likelihood. Ends early after `cancel`.

        Raises:
            ShardnetError: what ended the session; or it could not be said of a token how likely it was.
        """
        tokens = iter(self._session)
        for token in tokens:
            try:
                filled = self._filled(token)
            except KVMemorySpent:
                break
            if self._is_cancelled.is_set():
                return
            yield filled
        else:
            return
        for late in [token, *tokens]:
            filled = self._filled(late, time.monotonic() + ROOM_S)
            if self._is_cancelled.is_set():
                return
            yield filled

    def cancel(self) -> None:
        """Score no more. From any thread, any number of times; the session is its owner's."""
        self._is_cancelled.set()
        scoring = self._scoring
        if scoring is not None:
            scoring.cancel()

    def _filled(self, token: SampledToken, until_s: float = 0.0) -> SampledToken:
        """A token that says how likely it was, unless this was cancelled.

        Args:
            until_s: so long there may be no memory.
        """
        if token.log_likelihood is not None:
            return token
        num_tries = 0
        while token.index not in self._found and not self._is_cancelled.is_set():
            num_tries += 1
            try:
                self._look(token.index)
            except KVMemorySpent:
                if time.monotonic() >= until_s:
                    raise
                self._is_cancelled.wait(LOOK_AGAIN_S)
            except ClusterError:
                if num_tries >= TRIES:
                    raise
        found = self._found.get(token.index, token)
        return token._replace(log_likelihood=found.log_likelihood, alternatives=found.alternatives)

    def _look(self, index: int) -> None:
        """Score all that is known of the answer, from that token on."""
        text = [*self._prompt_ids, *self._session.known_ids]
        self._scoring = self._score(text, self._session.spec.sampling.logprobs)
        if self._is_cancelled.is_set():
            self._scoring.cancel()
        first = len(self._prompt_ids) - 1  # of a text, nothing comes before the first token
        for token in self._scoring:
            if token.index >= first + index:
                self._found[token.index - first] = token
        self._scoring = None
        if index not in self._found and not self._is_cancelled.is_set():
            raise ClusterError("it could not be said how likely a token of this answer was. Ask again.")


class LikelyConversation:
    """A session for a reader, to whom each token comes with how likely it was. A thread of its own waits for them.

    Args:
        likelihoods: of the session.
    """

    def __init__(self, session: Conversation, likelihoods: Likelihoods) -> None:
        self._session = session
        self._likelihoods = likelihoods

    @property
    def spec(self) -> SessionSpec:
        return self._session.spec

    @property
    def num_shared(self) -> int:
        return self._session.num_shared

    def hand_to(self, reader: Reader) -> None:
        on_thread("shardnet-likelihoods", partial(self._hand, reader))

    def cancel(self) -> None:
        self._session.cancel()
        self._likelihoods.cancel()

    def _hand(self, reader: Reader) -> None:
        try:
            for token in self._likelihoods:
                reader.take([token])
        except BaseException as error:
            reader.end(error)
        else:
            reader.end(None)


def likely(session: Conversation, prompt_ids: Sequence[int], logprobs: int, score: Score) -> Handing:
    """The session for a reader, to whom tokens come with how likely they were, where that is asked for (`logprobs`)."""
    return session if logprobs < 0 else LikelyConversation(session, Likelihoods(session, prompt_ids, score))

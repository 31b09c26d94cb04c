"""One answer as it comes from a session: pieces of text, and in the end what it came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from shardnet.pipeline import Session
from shardnet.text import TextStream


@dataclass(frozen=True)
class Generation:
    """One finished answer."""

    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: str
    """'eos', 'length', 'stop' (a stop string), or 'cancelled'."""
    tokens_per_s: float
    """Of decoding: tokens after the first, per second after the first."""
    time_to_first_token_s: float


@dataclass
class Stream:
    """An answer as it comes: iterate for pieces of text. `result` is there when the iteration has ended."""

    _session: Session
    _text: TextStream
    _pieces: list[str] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _finish_reason: str = "cancelled"
    is_finished: bool = False
    on_finished: Callable[[Generation], None] = lambda result: None

    def __iter__(self) -> Iterator[str]:
        try:
            for token in self._session:
                self._ids.append(token.token_id)
                is_eos = token.finish_reason == "eos"
                yield from self._tell("" if is_eos else self._text.push(token.token_id))
                if self._text.is_stopped:
                    self._finish_reason = "stop"
                    return
                self._finish_reason = token.finish_reason or self._finish_reason
            yield from self._tell(self._text.finish())
            if self._text.is_stopped:
                self._finish_reason = "stop"
        finally:
            self.close()

    def close(self) -> None:
        """Stop generating. Safe to call twice, and after the end."""
        self._session.cancel()
        if not self.is_finished:
            self.is_finished = True
            self.on_finished(self.result)

    @property
    def result(self) -> Generation:
        """What was generated; after an early `close`, what came until then."""
        session = self._session
        first_s = session.first_token_s or session.started_s
        decode_s = (session.last_token_s or first_s) - first_s
        return Generation(
            text="".join(self._pieces),
            token_ids=list(self._ids),
            prompt_tokens=session.spec.prompt_tokens,
            finish_reason=self._finish_reason,
            tokens_per_s=(len(self._ids) - 1) / decode_s if decode_s > 0 else 0.0,
            time_to_first_token_s=first_s - session.started_s,
        )

    def _tell(self, piece: str) -> Iterator[str]:
        if piece:
            self._pieces.append(piece)
            yield piece

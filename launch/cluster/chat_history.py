"""What was said so far in a chat, and the prompt that the next message makes of it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from shardnet.errors import BadRequest

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
PLAIN_STOP = "\nUser:"
"""Before which an answer ends where the model knows no chat: it would go on with what the user says next."""


@dataclass
class History:
    """Of one chat."""

    system: str = ""
    """What the model is told of how to answer; empty: nothing."""
    turns: list[tuple[str, str]] = field(default_factory=list)
    """Message and answer."""

    def messages(self, text: str | None = None) -> list[dict[str, str]]:
        """As chat templates take them, with what is asked next."""
        system = [(SYSTEM, self.system)] if self.system else []
        said = [pair for message, answer in self.turns for pair in ((USER, message), (ASSISTANT, answer))]
        next_one = [] if text is None else [(USER, text)]
        return [{"role": role, "content": content} for role, content in (*system, *said, *next_one)]

    def plain(self, text: str) -> str:
        """The same for a model that has no chat template: as somebody would write it down."""
        system = [self.system] if self.system else []
        said = [f"User: {message}\nAssistant: {answer.strip()}" for message, answer in self.turns]
        return "\n".join([*system, *said, f"User: {text}\nAssistant:"])


def loaded(text: str, shown: str) -> History:
    """What `/save` has written.

    Args:
        shown: the file, in messages.

    Raises:
        BadRequest: it is something else.
    """
    try:
        said = [(each["role"], each["content"]) for each in json.loads(text)["messages"]]
        return _history_of(said)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadRequest(f"{shown} is no chat that /save has written. Name one that is.") from error


def _history_of(said: list[tuple[Any, Any]]) -> History:
    """
    Raises:
        ValueError: these are no turns of a chat.
    """
    if not all(isinstance(content, str) for _, content in said):
        raise ValueError("a message is no text")
    has_system = bool(said) and said[0][0] == SYSTEM
    turns = said[1:] if has_system else said
    messages, answers = turns[::2], turns[1::2]
    if [role for role, _ in turns] != [USER, ASSISTANT] * len(answers):
        raise ValueError("messages and answers do not take turns")
    pairs = [(message, answer) for (_, message), (_, answer) in zip(messages, answers, strict=True)]
    return History(said[0][1] if has_system else "", pairs)

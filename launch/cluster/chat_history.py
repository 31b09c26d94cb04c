"""What was said so far in a chat, and the prompt that the next message makes of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

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

"""An answer that is the arguments of one tool, by its grammar."""

from __future__ import annotations

from collections.abc import Iterable

from shardnet.serve.formats.parts import Call, Part


class Arguments:
    """See `Parser`. What is cut off by its length is given as it is, as OpenAI's API does."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._text = ""

    def feed(self, text: str) -> Iterable[Part]:
        self._text += text
        return []

    def finish(self) -> Iterable[Part]:
        return [Call(self._name, self._text.strip())]

"""How a model writes thoughts and calls, by its chat template. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shardnet.serve.formats import tagged, thinking
from shardnet.serve.formats.bare import MARKS, Bare
from shardnet.serve.formats.parts import Parser, Plain, Tools
from shardnet.serve.formats.tagged import Tagged
from shardnet.serve.formats.thinking import Thinking


def template_of(tokenizer: Any, template: str | None) -> str:
    """The text of the chat template that holds; of all of them, where a tokenizer has several."""
    found = template if template is not None else getattr(tokenizer, "chat_template", None)
    return "\n".join(map(str, found.values())) if isinstance(found, dict) else str(found or "")


def knows_tools(template: str) -> bool:
    """Whether it tells the model of tools."""
    return "tools" in template


def has_marks(template: str) -> bool:
    """Whether calls begin with a token of their own, which is no text otherwise."""
    return any(mark in template for mark in MARKS)


def parsers_of(template: str, tools: Tools | None, prompt_end: str) -> Callable[[], Parser]:
    """What makes a parser for each choice of an answer.

    Args:
        tools: which may be called; None where none may.
        prompt_end: the text with which the prompt ends.
    """

    def made() -> Parser:
        answer: Parser = Plain()
        if tools is not None:
            answer = Tagged(tools) if tagged.OPEN in template else Bare(tools)
        if thinking.CLOSE in template:
            return Thinking(answer, has_begun=prompt_end.rstrip().endswith(thinking.OPEN))
        return answer

    return made

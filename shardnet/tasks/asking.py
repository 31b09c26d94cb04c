"""What a model is asked for summaries and translations: the prompts of these tasks. Pure."""

from __future__ import annotations

from typing import Any

from shardnet.errors import BadRequest
from shardnet.tasks.names import SUMMARIES
from shardnet.tasks.options import TEXT, TaskOptions

SUMMARIZE = f"Summarize the following text in a few sentences. Answer with the summary alone.\n\n{TEXT}"
TRANSLATE = f"Translate the following text{{from_}} to {{to}}. Answer with the translation alone.\n\n{TEXT}"
PLAIN = {SUMMARIES: "\n\nSummary:"}
"""Behind a prompt where the model knows no chat."""


def prompt_for(task: str, asked: TaskOptions) -> str:
    """What is asked, with `TEXT` where the text stands.

    Raises:
        BadRequest: it is not said which language to translate to.
    """
    if asked.prompt is not None:
        return asked.prompt
    if task == SUMMARIES:
        return SUMMARIZE
    if asked.tgt_lang is None:
        raise BadRequest(
            'translation needs tgt_lang, the language to translate to in words, such as "French".', option="tgt_lang"
        )
    source = "" if asked.src_lang is None else f" from {asked.src_lang}"
    return TRANSLATE.replace("{from_}", source).replace("{to}", asked.tgt_lang)


def put(task: str, prompt: str, text: str, *, knows_chat: bool) -> Any:
    """The prompt for one text: a chat, or plain text for a model without a chat template."""
    said = prompt.replace(TEXT, text)
    if knows_chat:
        return [{"role": "user", "content": said}]
    return said + PLAIN.get(task, "\n\nTranslation:")

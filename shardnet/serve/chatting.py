"""A chat, from the messages and tools of its request to the ids of its prompt and what its answer is parsed with."""

from __future__ import annotations

from typing import Any

from shardnet.cluster.model import Model
from shardnet.grammars.texts import calls_lark
from shardnet.serve.bodies import ChatBody, NamedTool, Tool
from shardnet.serve.errors import refused
from shardnet.serve.formats.bare import Bare
from shardnet.serve.formats.choosing import has_marks, knows_tools, parsers_of, template_of
from shardnet.serve.formats.forced import Arguments
from shardnet.serve.formats.parts import Parser, Tools
from shardnet.serve.prompting import ids_of_chat, messages_for_template

OURS = frozenset(
    (
        *("self", "conversation", "messages", "tools", "chat_template", "add_generation_prompt", "tokenize", "padding"),
        *("continue_final_message", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"),
        "return_assistant_tokens_mask",
    )
)
"""What a request may not say to the template."""
END_TOKENS = 16
"""Of a prompt, in which a tag that begins a thought is looked for."""


class Chatting:
    """Of one request.

    Args:
        template: in place of the model's own.

    Raises:
        ApiError: its messages or tools cannot be told to a model.
    """

    def __init__(self, body: ChatBody, template: str | None) -> None:
        self._messages = messages_for_template(body.messages)
        self._template = template
        self._beside = _for_template(body)
        _check_tools(body)
        choice = body.tool_choice
        self._offered = [] if choice == "none" else list(body.tools or [])
        self._is_one_call = body.parallel_tool_calls is False
        self._named = choice.function.name if isinstance(choice, NamedTool) else ""
        self._must_call = choice == "required"
        self._prompt_end = ""
        self._template_text = ""

    @property
    def form(self) -> dict[str, Any]:
        """The option that has the answer be calls, where it has to be."""
        if self._named:
            return {"json_schema": next(_schema(tool) for tool in self._offered if tool.function.name == self._named)}
        if self._must_call:
            schemas = {tool.function.name: _schema(tool) for tool in self._offered}
            return {"lark": calls_lark(schemas, is_one_call=self._is_one_call)}
        return {}

    def keeps_special(self) -> bool:
        """Whether tokens that are no text otherwise belong to the answer. To be asked when the prompt is encoded."""
        return bool(self._offered) and not self.form and has_marks(self._template_text)

    def ids(self, model: Model) -> list[int]:
        """Of its prompt.

        Raises:
            ApiError: the model knows no tools.
            BadRequest: as `ids_of_chat`.
        """
        self._template_text = template_of(model.tokenizer, self._template)
        if self._offered and not knows_tools(self._template_text):
            raise refused(
                "tools",
                f"cannot be told to {model.profile.name}: its chat template knows none. Take a model that does, or "
                "start the server with --chat-template.",
            )
        beside = dict(self._beside)
        if self._offered:
            beside["tools"] = [tool.model_dump(exclude_none=True) for tool in self._offered]
        ids = ids_of_chat(model, self._messages, self._template, **beside)
        self._prompt_end = model.tokenizer.decode(ids[-END_TOKENS:], skip_special_tokens=False)
        return ids

    def parser(self) -> Parser:
        """For one choice of the answer."""
        if self._named:
            return Arguments(self._named)
        tools = Tools(frozenset(tool.function.name for tool in self._offered), self._is_one_call)
        if self._must_call:
            return Bare(tools)
        return parsers_of(self._template_text, tools if self._offered else None, self._prompt_end)()


def _for_template(body: ChatBody) -> dict[str, Any]:
    """What a request says to the chat template itself."""
    said = body.chat_template_kwargs or {}
    reserved = [name for name in said if name in OURS]
    if reserved:
        raise refused("chat_template_kwargs", f"must not say {reserved[0]}, which is the server's.")
    return said


def _check_tools(body: ChatBody) -> None:
    names = [tool.function.name for tool in body.tools or []]
    if len(set(names)) < len(names):
        raise refused("tools", "have two functions of one name. Give each its own.")
    choice = body.tool_choice
    if choice in (None, "none", "auto"):
        return
    if not names:
        raise refused("tool_choice", "asks for a call, but the request has no tools.")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise refused("tool_choice", f"names {choice.function.name!r}, which is not one of the request's tools.")


def _schema(tool: Tool) -> dict[str, Any]:
    """Of its arguments."""
    return tool.function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}

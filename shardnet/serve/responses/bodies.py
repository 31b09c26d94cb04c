"""What requests for responses may say, strictly; see `serve.bodies`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from shardnet.serve.bodies import MOST_TOOLS, NamedSchema, Strict

Status = Literal["in_progress", "completed", "incomplete"]


class ItemText(Strict):
    """A part of a message's content."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = Field(default=None, max_length=0)
    logprobs: list[Any] | None = None


class MessageItem(Strict):
    """A turn, the user's or an earlier answer."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ItemText]
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class CallItem(Strict):
    """A call in an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class OutputItem(Strict):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[ItemText]
    id: str | None = None
    status: Status | None = None


class ThoughtText(Strict):
    """A part of a thought."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ThoughtItem(Strict):
    """What was thought before an earlier answer."""

    type: Literal["reasoning"]
    summary: list[ThoughtText] | None = None
    content: list[ThoughtText] | None = None
    id: str | None = None
    status: Status | None = None
    encrypted_content: None = None


Item = MessageItem | CallItem | OutputItem | ThoughtItem


class FlatTool(Strict):
    """A function, as this route has it."""

    type: Literal["function"]
    name: str = Field(pattern="^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FlatName(Strict):
    """The tool that is to be called."""

    type: Literal["function"]
    name: str


class Format(NamedSchema):
    """What the text looks like."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(default=None, pattern="^[a-zA-Z0-9_-]{1,64}$")  # type: ignore[assignment]


class TextOptions(Strict):
    """Of the text."""

    format: Format | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Strict):
    """Of thoughts; models here have no degrees of them."""

    effort: Literal["none"] | None = None
    summary: None = None


class ResponseBody(Strict):
    """`POST /v1/responses`."""

    model: str
    input: str | list[Item]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    text: TextOptions | None = None
    tools: list[FlatTool] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | FlatName | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

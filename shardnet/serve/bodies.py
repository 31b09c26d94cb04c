"""What requests may say, strictly: a field that is not here is refused by name, and so is a value of another type."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from shardnet.serve.errors import ApiError

MOST_CHOICES = 128
MOST_STOPS = 16
MOST_TEXTS = 2048
MOST_FAULTS = 1000
"""Each has an object of its own: millions of them in one body took gigabytes, and the loop for half a minute."""
MOST_TOOLS = 128
Body = TypeVar("Body", bound=BaseModel)


def _tell_first(schema: Any) -> None:
    """Of each list in it, have the first item told that is wrong, and not all."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        for each in schema.values():
            _tell_first(each)
    elif isinstance(schema, list):
        for each in schema:
            _tell_first(each)


class Strict(BaseModel):
    """Nothing is converted, nothing beside the fields is taken."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _tell_first(schema)
        return schema


class StreamOptions(Strict):
    """What a stream has besides."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class NamedSchema(Strict):
    """A JSON schema, as OpenAI's API has it."""

    name: str = Field(pattern="^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """What an answer looks like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(Strict):
    """The same in vLLM's words."""

    schema_: str | dict[str, Any] | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: list[str] | None = None


class Sampling(Strict):
    """What chats and completions have in common. None is what a field has when it is left out."""

    model: str
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    # Not OpenAI's, but of servers that speak its API:
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_grammar: str | None = None
    guided_choice: list[str] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Function(Strict):
    """What may be called."""

    name: str = Field(pattern="^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool that a request offers."""

    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    """Which one."""

    name: str


class NamedTool(Strict):
    """The tool that is to be called."""

    type: Literal["function"]
    function: FunctionName


class FunctionCall(Strict):
    """What was called, and with what: JSON."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class Message(Strict):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    # What OpenAI's client sends back of its own answers, and means nothing where it is empty:
    audio: None = None
    annotations: list[Any] | None = Field(default=None, max_length=0)
    function_call: None = None


class ChatBody(Sampling):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[Tool] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # Of OpenAI's own service:
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    moderation: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    verbosity: str | None = None
    web_search_options: dict[str, Any] | None = None
    # vLLM's:
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionBody(Sampling):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(default=None, ge=1)
    best_of: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=5)
    suffix: str | None = None


class EmbeddingBody(Strict):
    """`POST /v1/embeddings`."""

    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    # Not OpenAI's: of which token a text's vector is.
    pooling: Literal["last", "mean"] | None = None


def read(kind: type[Body], raw: bytes) -> Body:
    """The body of a request.

    Raises:
        ApiError: it is no JSON, or not what it should be; names the first field that is not.
    """
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise refusal_of(error) from None


def refusal_of(error: ValidationError) -> ApiError:
    """What is told of a body that is not what it should be."""
    if error.error_count() > MOST_FAULTS:
        return ApiError(400, f"The body has {error.error_count()} values that cannot be used.", code="invalid_value")
    faults = error.errors(include_url=False, include_context=False)
    fault = min(faults, key=_rank)
    where = _path(fault["loc"])
    if fault["type"] == "json_invalid":
        return ApiError(
            400, f"The body is no JSON: {fault['msg'].removeprefix('Invalid JSON: ')}.", code="invalid_json"
        )
    if fault["type"] == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {where}. This server has no such field; leave it out."
        return ApiError(400, message, param=where, code="unknown_parameter")
    if fault["type"] == "missing":
        return ApiError(400, f"You must provide {where}.", param=where, code="missing_required_parameter")
    if not where:
        return ApiError(400, "The body must be an object of JSON.", code="invalid_type")
    said = fault["msg"]
    return ApiError(400, f"Invalid value for {where}: {said[:1].lower()}{said[1:]}.", param=where, code="invalid_value")


def _rank(fault: Any) -> int:
    """Which of several is told: what no server of this kind knows comes last, as clients send that by habit."""
    return {"extra_forbidden": 1}.get(fault["type"], 0)


def _path(loc: tuple[int | str, ...]) -> str:
    """As `messages[0].content`, without what pydantic calls the members of a union."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and not (path and part in UNION_MEMBERS):
            path += f".{part}" if path else part
    return path


UNION_MEMBERS = {"str", "int", "bool", "float", "dict", "list", "TextPart", "NamedTool"}

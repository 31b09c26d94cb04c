"""`POST /tokenize` and `/detokenize`, as vLLM has them: what a text or a chat is in tokens, as a request for an answer
would have it, and what tokens are in text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest
from shardnet.release import __version__
from shardnet.serve.bodies import Message, Strict, read
from shardnet.serve.described import SEEN, errors_of, request_body
from shardnet.serve.errors import refused
from shardnet.serve.prompting import ids_of_chat, messages_for_template
from shardnet.serve.service import Service
from shardnet.session.prompts import check_text


class TokenizeBody(Strict):
    """`POST /tokenize`: of one text, or of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1)
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Strict):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[int]


def tokenizing_router(service: Service) -> APIRouter:
    """The routes. None of them needs a ring, but a model whose tokenizer it is."""
    router = APIRouter()

    async def tokenize(request: Request) -> Response:
        """What a text or a chat is in tokens."""
        body = read(TokenizeBody, await request.body())
        return JSONResponse(await service.look(partial(_tokenized, service, body)))

    async def detokenize(request: Request) -> Response:
        """What tokens are in text."""
        body = read(DetokenizeBody, await request.body())
        return JSONResponse(await service.look(partial(_detokenized, service, body)))

    async def version() -> Response:
        """Of shardnet."""
        return JSONResponse({"version": __version__})

    kinds: dict[str, type[BaseModel]] = {"/tokenize": TokenizeBody, "/detokenize": DetokenizeBody}
    for path, endpoint in (("/tokenize", tokenize), ("/detokenize", detokenize)):
        router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            openapi_extra=request_body(kinds[path]),
            responses=errors_of(),
            response_model=None,
        )
    router.add_api_route("/version", version, methods=["GET"], responses=errors_of(*SEEN), response_model=None)
    return router


def _model_of(service: Service, named: str | None) -> Model:
    model = service.provider.model()
    if named is not None:
        service.check_name(model, named)
    return model


def _tokenized(service: Service, body: TokenizeBody) -> dict[str, Any]:
    """
    Raises:
        ApiError: it says neither or both, or what is for the other one.
    """
    if (body.prompt is None) == (body.messages is None):
        raise refused("prompt", "or messages must be given, and not both.")
    model = _model_of(service, body.model)
    ids = _ids_of_text(model, body) if body.messages is None else _ids_of_messages(service, model, body)
    return {
        "count": len(ids),
        "max_model_len": service.context_of(model),
        "tokens": ids,
        "token_strs": list(model.tokenizer.convert_ids_to_tokens(ids)) if body.return_token_strs else None,
    }


def _ids_of_text(model: Model, body: TokenizeBody) -> list[int]:
    if body.add_generation_prompt is not None:
        raise refused("add_generation_prompt", "is for messages. Leave it out.")
    assert body.prompt is not None, "there are no messages"
    check_text("the prompt", body.prompt)
    return list(model.tokenizer(body.prompt, add_special_tokens=body.add_special_tokens is not False)["input_ids"])


def _ids_of_messages(service: Service, model: Model, body: TokenizeBody) -> list[int]:
    if body.add_special_tokens:
        raise refused("add_special_tokens", "is for a prompt: a chat has those of its template. Leave it out.")
    messages = messages_for_template(body.messages or ())
    begins = body.add_generation_prompt is not False
    return ids_of_chat(model, messages, service.settings.template, add_generation_prompt=begins)


def _detokenized(service: Service, body: DetokenizeBody) -> dict[str, Any]:
    model = _model_of(service, body.model)
    _check_ids(body.tokens, model.profile.vocabulary)
    return {"prompt": model.tokenizer.decode(body.tokens, skip_special_tokens=False)}


def _check_ids(ids: Sequence[int], vocabulary: int) -> None:
    """
    Raises:
        BadRequest: one is not in the vocabulary.
    """
    if wrong := [each for each in ids if not 0 <= each < vocabulary]:
        raise BadRequest(
            f"tokens has {wrong[0]}, which is not in the model's vocabulary of {vocabulary}.", option="tokens"
        )

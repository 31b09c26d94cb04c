"""The application: its routes, and what they answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from shardnet.cluster.model import Model
from shardnet.errors import ShardnetError
from shardnet.release import __version__
from shardnet.serve.answering import answered
from shardnet.serve.asked import of_chat, of_completion
from shardnet.serve.bodies import ChatBody, CompletionBody, EmbeddingBody, read
from shardnet.serve.chat_shape import ChatShape
from shardnet.serve.chatting import Chatting
from shardnet.serve.cluster_routes import cluster_router
from shardnet.serve.described import SEEN, describe, errors_of, request_body
from shardnet.serve.embedding import embeddings_of
from shardnet.serve.errors import ApiError, as_api_error, sentence
from shardnet.serve.page.routes import page_router
from shardnet.serve.prompting import texts_of
from shardnet.serve.provider import why_not_ready
from shardnet.serve.responses.bodies import ResponseBody
from shardnet.serve.responses.routes import add_responses
from shardnet.serve.service import Service
from shardnet.serve.shapes import CompletionShape, Named
from shardnet.serve.streaming import GONE, Gone
from shardnet.serve.tokenizing import DetokenizeBody, TokenizeBody, tokenizing_router
from shardnet.serve.watching import Watching


def make_app(service: Service) -> FastAPI:
    """The routes over a service, without who guards them: see `Door`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.begin()
        yield
        service.close()

    app = FastAPI(title="shardnet", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    for kind in (ApiError, ShardnetError, Exception):
        app.add_exception_handler(kind, _told)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Gone, _gone)
    _add_answers(app, service)
    add_responses(app, service)
    _add_models(app, service)
    _add_looks(app, service)
    app.include_router(tokenizing_router(service))
    describe(app, ChatBody, CompletionBody, EmbeddingBody, ResponseBody, TokenizeBody, DetokenizeBody)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    async def chat_completions(request: Request) -> Response:
        """Answer a chat."""
        body = read(ChatBody, await request.body())
        chatting = Chatting(body, service.settings.template)
        asked = of_chat(body, service.settings.defaults, chatting.form)

        def shape(named: Named) -> ChatShape:
            is_likely, parser = asked.options.logprobs >= 0, chatting.parser
            return ChatShape(named, includes_usage=asked.includes_usage, parser=parser, tells_likely=is_likely)

        return await answered(
            service, request, body.model, asked, shape, lambda model: [chatting.ids(model)], chatting.keeps_special
        )

    async def completions(request: Request) -> Response:
        """Go on with a text."""
        body = read(CompletionBody, await request.body())
        prompts = texts_of("prompt", body.prompt)
        asked = of_completion(body, service.settings.defaults)

        def shape(named: Named) -> CompletionShape:
            is_likely = asked.options.logprobs >= 0
            return CompletionShape(named, includes_usage=asked.includes_usage, tells_likely=is_likely)

        return await answered(
            service, request, body.model, asked, shape, lambda model: [model.encode(prompt) for prompt in prompts]
        )

    _add(app, "/v1/chat/completions", chat_completions, ChatBody)

    async def embeddings(request: Request) -> Response:
        """A vector for each text."""
        body = read(EmbeddingBody, await request.body())
        return JSONResponse(await embeddings_of(service, request, body))

    _add(app, "/v1/completions", completions, CompletionBody)
    _add(app, "/v1/embeddings", embeddings, EmbeddingBody)


def _add(app: FastAPI, path: str, endpoint: Callable[..., Any], body: type[BaseModel]) -> None:
    """A route whose body is read by `bodies.read`, and stands in our OpenAPI document all the same."""
    described = request_body(body)
    app.add_api_route(
        path, endpoint, methods=["POST"], openapi_extra=described, responses=errors_of(), response_model=None
    )


def _add_models(app: FastAPI, service: Service) -> None:
    def described(model: Model, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": service.started,
            "owned_by": "shardnet",
            "root": model.profile.name,
            "max_model_len": service.context_of(model),
        }

    async def models() -> Response:
        """What is here."""
        model = await service.look(service.provider.model)
        names = service.settings.names or (model.profile.name,)
        return JSONResponse({"object": "list", "data": [described(model, name) for name in names]})

    async def one_model(name: str) -> Response:
        """One of them."""
        model = await service.look(service.provider.model)
        service.check_name(model, name)
        return JSONResponse(described(model, name))

    seen, of_one = errors_of(*SEEN), errors_of(404, *SEEN)
    app.add_api_route("/v1/models", models, methods=["GET"], responses=seen, response_model=None)
    app.add_api_route("/v1/models/{name:path}", one_model, methods=["GET"], responses=of_one, response_model=None)


def _add_looks(app: FastAPI, service: Service) -> None:
    watching = Watching(service.provider.status)
    app.include_router(cluster_router(service, watching))
    app.include_router(page_router())

    async def health() -> Response:
        """Whether a ring stands: 200 or 503."""
        try:
            why = why_not_ready(await watching.look())
        except ShardnetError as error:
            why = str(error)
        if why:
            return JSONResponse({"status": "unavailable", "why": sentence(why)}, 503, {"Retry-After": "2"})
        return JSONResponse({"status": "ok"})

    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, endpoint in (("/health", health), ("/metrics", metrics)):
        app.add_api_route(path, endpoint, methods=["GET"], responses=errors_of(*SEEN), response_model=None)


async def _told(_: Request, error: Exception) -> Response:
    told = as_api_error(error)
    return JSONResponse(told.as_object(), told.status, told.headers)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"
    message = f"This server has no {what}." if error.status_code == 404 else f"{what}: {error.detail}."
    told = ApiError(error.status_code, message, code="not_found" if error.status_code == 404 else None)
    return JSONResponse(told.as_object(), told.status, {**told.headers, **(error.headers or {})})


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=GONE)

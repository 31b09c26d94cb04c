"""The routes of responses."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from pydantic import TypeAdapter
from starlette.responses import JSONResponse, Response

from shardnet.serve.answering import answered
from shardnet.serve.asked import of_chat
from shardnet.serve.bodies import read
from shardnet.serve.chatting import Chatting
from shardnet.serve.described import errors_of, request_body
from shardnet.serve.errors import ApiError
from shardnet.serve.responses.asking import Messages, chat_of, messages_of, renamed
from shardnet.serve.responses.bodies import Item, ResponseBody
from shardnet.serve.responses.shape import ResponseShape
from shardnet.serve.responses.store import Kept, Store
from shardnet.serve.service import Service
from shardnet.serve.shapes import Named

PATH = "/v1/responses"
_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


def add_responses(app: FastAPI, service: Service) -> None:
    """Add them to the application."""
    store = Store()

    async def responses(request: Request) -> Response:
        """Answer, in items."""
        body = read(ResponseBody, await request.body())
        try:
            return await _answer(service, store, request, body)
        except ApiError as error:
            raise renamed(error) from error

    async def one_response(request: Request, name: str) -> Response:
        """One that is kept."""
        return JSONResponse(_kept(store, request, name).response)

    async def its_input(request: Request, name: str) -> Response:
        """The items that were asked with."""
        items = _kept(store, request, name).items
        ids = [item["id"] for item in items] or [None]
        ends = {"first_id": ids[0], "last_id": ids[-1]}
        return JSONResponse({"object": "list", "data": items, "has_more": False, **ends})

    async def forget(request: Request, name: str) -> Response:
        """Keep it no longer."""
        _kept(store, request, name)
        store.drop(_client(request), name)
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    described, of_one = request_body(ResponseBody), errors_of(404)
    app.add_api_route(
        PATH, responses, methods=["POST"], openapi_extra=described, responses=errors_of(), response_model=None
    )
    one, items = f"{PATH}/{{name}}", f"{PATH}/{{name}}/input_items"
    app.add_api_route(one, one_response, methods=["GET"], responses=of_one, response_model=None)
    app.add_api_route(items, its_input, methods=["GET"], responses=of_one, response_model=None)
    app.add_api_route(one, forget, methods=["DELETE"], responses=of_one, response_model=None)


async def _answer(service: Service, store: Store, request: Request, body: ResponseBody) -> Response:
    before: Messages = []
    if body.previous_response_id is not None:
        before = _kept(store, request, body.previous_response_id, "previous_response_id").messages
    chat = chat_of(body, before)
    chatting = Chatting(chat, service.settings.template)
    asked = of_chat(chat, service.settings.defaults, chatting.form)

    def keep(response: dict[str, Any]) -> None:
        if body.store is False:
            return
        answer = messages_of(_ITEMS.validate_python(response["output"]))
        messages = [*before, *messages_of(body.input), *answer]
        store.keep(_client(request), response, _as_items(response["id"], body), messages)

    def shape(named: Named) -> ResponseShape:
        tells_likely = asked.options.logprobs >= 0
        return ResponseShape(named, body, chatting.parser, keep, tells_likely=tells_likely)

    return await answered(
        service, request, body.model, asked, shape, lambda model: [chatting.ids(model)], chatting.keeps_special
    )


def _as_items(name: str, body: ResponseBody) -> list[dict[str, Any]]:
    """The input of a request, each item with an id."""
    given = body.input
    if isinstance(given, str):
        items: list[dict[str, Any]] = [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}
        ]
    else:
        items = [item.model_dump(exclude_none=True) for item in given]
    return [{"id": f"in_{name}_{index}", **item} for index, item in enumerate(items)]


def _kept(store: Store, request: Request, name: str, param: str | None = None) -> Kept:
    found = store.get(_client(request), name)
    if found is None:
        message = f"There is no response {name!r} here: it was not kept, or is no more. Send the whole chat."
        raise ApiError(404 if param is None else 400, message, param=param, code="response_not_found")
    return found


def _client(request: Request) -> str:
    return str(request.scope["shardnet"]["client"])

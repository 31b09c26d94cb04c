"""From what a request asks to what its client gets: whole, or as events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shardnet.serve.asked import Asked
from shardnet.serve.service import Encode, Service
from shardnet.serve.shapes import Named, Shape
from shardnet.serve.streaming import EventStream, events_of, while_here, whole_of


def never() -> bool:
    """Texts without the tokens that are none otherwise."""
    return False


async def answered(
    service: Service,
    request: Request,
    named: str,
    asked: Asked,
    shaped: Callable[[Named], Shape],
    encode: Encode,
    keeps_special: Callable[[], bool] = never,
) -> Response:
    """
    Args:
        named: the model that is asked.
        shaped: makes what the answer looks like, when the prompt is encoded.

    Raises:
        ApiError, ShardnetError: as `Service.answer`.
    """
    client = request.scope["shardnet"]["client"]
    reply = await while_here(request, service.answer(named, encode, asked, client, keeps_special))
    shape = shaped(Named(secrets.token_hex(16), int(time.time()), named))
    if asked.streams:
        return EventStream(events_of(reply, shape), lambda: service.end(reply))
    return JSONResponse(await while_here(request, whole_of(service, reply, shape)))

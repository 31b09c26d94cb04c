"""The cluster by HTTP: `/cluster/status`, `/cluster/events`, `/cluster/plan`, `/cluster/invitation`.

Whether somebody may ask at all is seen to before these routes: keys, hosts and origins are the door's affair.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from shardnet.serve.described import SEEN, errors_of
from shardnet.serve.errors import ApiError
from shardnet.serve.service import Service
from shardnet.serve.streaming import EventStream
from shardnet.serve.watching import News, Watching

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
"""What a proxy says of whom it asks for: such a request comes from wherever."""
NOT_STORED = {"cache-control": "no-store"}


def from_this_machine(request: Request) -> bool:
    """Whether who asks is a process of the server's machine."""
    if any(name in request.headers for name in FORWARDED):
        return False
    if request.client is None:  # by a Unix socket
        return True
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def cluster_router(service: Service, watching: Watching) -> APIRouter:
    """The routes. What cannot be said is raised as the `ShardnetError` that it is."""
    router = APIRouter(prefix="/cluster", default_response_class=JSONResponse)
    provider, has_keys = service.provider, bool(service.settings.keys)

    async def status() -> Response:
        """Who is there, what is loaded, who talks, what has happened: as `shardnet status --json`."""
        return JSONResponse(await watching.look(), headers=NOT_STORED)

    async def events() -> Response:
        """The same as it changes, as server-sent events: `status`, `happened`, and `away` while it does not answer."""
        return EventStream(_as_sse(watching.follow()))

    async def plan() -> Response:
        """The plan in force: stages, what was predicted and measured, who is left out and why."""
        return JSONResponse(await service.look(provider.plan), headers=NOT_STORED)

    async def invitation(request: Request) -> Response:
        """How one more device gets in: a code to type and the modules of a QR code."""
        if not has_keys and not from_this_machine(request):  # with keys, one was shown
            raise ApiError(
                403,
                "An invitation is shown on the machine of the server alone, or to who has a key. Ask there: shardnet "
                "invite",
                code="not_from_here",
            )
        return JSONResponse(await service.look(provider.invitation), headers=NOT_STORED)

    def add(path: str, endpoint: Callable[..., Any], method: str, *errors: int) -> None:
        responses = errors_of(*errors, *SEEN)
        router.add_api_route(path, endpoint, methods=[method], responses=responses, response_model=None)

    add("/status", status, "GET")
    add("/events", events, "GET")
    add("/plan", plan, "GET")
    add("/invitation", invitation, "POST", 400, 403)
    return router


async def _as_sse(news: AsyncGenerator[News, None]) -> AsyncIterator[bytes]:
    async with aclosing(news):
        async for each in news:
            yield f"event: {each.kind}\ndata: {json.dumps(each.content)}\n\n".encode()

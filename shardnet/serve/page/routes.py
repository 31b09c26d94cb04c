"""Where the page is: `/`, and its files under `/static/`. They hold no secret: whoever reaches the server has them."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from shardnet.serve.page.files import HEADERS, INDEX, PageFile, read_files


def page_router() -> APIRouter:
    """The routes of the page."""
    router = APIRouter(include_in_schema=False)
    files = read_files()

    @router.get("/")
    async def index(request: Request) -> Response:
        return _answer(request, files[INDEX])

    @router.get("/static/{name}")
    async def static(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "The page has no such file.")
        return _answer(request, files[name])

    return router


def _answer(request: Request, file: PageFile) -> Response:
    headers = {**HEADERS, "etag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)

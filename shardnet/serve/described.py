"""The OpenAPI document of the server: what its routes take, and what they answer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
STATUSES = {
    400: "A value cannot be used; `param` names the field.",
    401: "A key must be shown.",
    403: "Asked by a web page of another origin, or for an invitation from another machine.",
    404: "There is no such model.",
    408: "The body took too long.",
    413: "The body is too long.",
    421: "The server is not called that.",
    429: "Memory is spent; `Retry-After` says when to ask again.",
    503: "No ring stands.",
}
SEEN = (401, 403, 421, 503)
"""What a route may answer that takes no body."""


def request_body(kind: type[BaseModel]) -> dict[str, Any]:
    """As a route's `openapi_extra`. What the body consists of stands among the document's components."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def errors_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """As a route's `responses`: these, or all."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {each: {"description": STATUSES[each], "content": content} for each in statuses or STATUSES}


def describe(app: FastAPI, *kinds: type[BaseModel]) -> None:
    """Have its document hold the bodies, and what errors look like."""

    def document() -> dict[str, Any]:
        if not app.openapi_schema:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas["Error"] = ERROR
            for kind in kinds:
                schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[kind.__name__] = schema
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]

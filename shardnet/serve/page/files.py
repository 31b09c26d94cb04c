"""The files of the page, read once, and the headers that keep other hosts out of it. Pure but for the reading.

Nothing on the page comes from another host, no script stands within a document, and no text becomes markup: the browser
is told to hold the page to that, so that a mistake in a script is no way in for what a model or a device says.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple

STATIC = "shardnet.serve.page"
INDEX = "index.html"
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""The last two: where a browser knows them, `innerHTML` and its kin raise, whatever they are given."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-frame-options": "DENY",
    "cache-control": "no-cache",
}
"""`no-cache`: a browser asks each time whether its copy is still the same, and gets a new one only where it is not."""


class PageFile(NamedTuple):
    """One file."""

    content: bytes
    media_type: str
    etag: str


def read_files() -> dict[str, PageFile]:
    """All files of the page, by their names. What is not among them is not served."""
    found = {}
    for each in (files(STATIC) / "static").iterdir():
        kind = each.name.rpartition(".")[2]
        if kind in TYPES:
            content = each.read_bytes()
            found[each.name] = PageFile(content, TYPES[kind], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found

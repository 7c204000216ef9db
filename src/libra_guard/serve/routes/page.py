"""The page at ``/``, to try a guard with in a browser: fixed files of this package, nothing from outside.

They hold no data and need no key. Their Content-Security-Policy lets the browser run no script but theirs, and send
nothing anywhere but to this server, so that a text that is judged cannot act even if it came to be markup.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Header, Response

from libra_guard.serve.errors import ApiError

INDEX = "index.html"
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}
"""How a file's name ends → its media type."""
_POLICY = (
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'"),
    *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    *("require-trusted-types-for 'script'", "trusted-types 'none'"),
)
HEADERS = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Kept, but asked for anew each time: after an update no old script meets a new page.
    "Cache-Control": "no-cache",
}
router = APIRouter(include_in_schema=False)


class File(NamedTuple):
    """One file of the page."""

    body: bytes
    media_type: str
    etag: str


@cache
def page_files() -> dict[str, File]:
    """The page's files by name; nothing else can be asked for, whatever a path says."""
    found = {}
    for entry in files("libra_guard.serve").joinpath("web").iterdir():
        kind = entry.name.rpartition(".")[2]
        if kind in TYPES:
            body = entry.read_bytes()
            found[entry.name] = File(body, TYPES[kind], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


IfNoneMatch = Annotated[str, Header()]


@router.api_route("/", methods=["GET", "HEAD"])
async def index(if_none_match: IfNoneMatch = "") -> Response:
    """The page itself."""
    return _answer(page_files()[INDEX], if_none_match)


@router.api_route("/web/{name}", methods=["GET", "HEAD"])
async def file(name: str, if_none_match: IfNoneMatch = "") -> Response:
    """One of the files it is made of."""
    found = page_files().get(name)
    if found is None:
        raise ApiError(404, "the page has no such file", code="not_found")
    return _answer(found, if_none_match)


def _answer(found: File, known: str) -> Response:
    headers = {**HEADERS, "ETag": found.etag}
    if found.etag in known or known == "*":
        return Response(status_code=304, headers=headers)
    return Response(found.body, media_type=found.media_type, headers=headers)

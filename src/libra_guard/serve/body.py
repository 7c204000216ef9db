"""Reading JSON that anybody may have sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from libra_guard.serve.errors import ApiError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)

_CHARSET = re.compile(r";\s*charset\s*=\s*([^;]*)", re.IGNORECASE)


def read_json(raw: bytes) -> Any:
    """What the body of a request says.

    Two keys of one name are refused, for another program may go by the other one; so are NaN, the infinities and lone
    surrogates, which JSON cannot carry on to others.

    Raises:
        ApiError: 400, it is not JSON in UTF-8.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _wrong(f"not UTF-8, at byte {error.start}") from None
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
        if _SURROGATE.search(text):
            # Most are halves of a pair, as of emoji: what they became tells.
            json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _wrong(f"not JSON: {error.msg}, line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise _wrong("nested too deeply") from None
    except UnicodeEncodeError:
        raise _wrong("it holds a lone surrogate (\\ud800 to \\udfff), which is no character") from None
    except ValueError as error:
        # Of a number with thousands of digits, Python's own words tell of its settings.
        raise _wrong(str(error) if isinstance(error, _UnfitError) else "it holds a number that is too long") from None
    return found


class StrictRoute(APIRoute):
    """A route whose body is JSON as ``read_json`` wants it, and is said to be.

    What is asked for as ``application/json`` cannot be sent by a web page of another origin unless CORS allows it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See ``APIRoute``."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def strict(request: Request) -> Response:
            kind = request.headers.get("content-type", "")
            charsets = {name.strip(' "').lower() for name in _CHARSET.findall(kind)}
            if not _JSON.fullmatch(kind) or not charsets <= {"utf-8", "utf8"}:
                message = "send JSON in UTF-8, with content-type: application/json"
                raise ApiError(415, message, code="unsupported_media_type")
            return await handle(_JsonRequest(request.scope, request.receive))

        return strict


class _JsonRequest(Request):
    async def json(self) -> Any:
        return read_json(await self.body())


class _UnfitError(ValueError):
    """Python would take it; JSON does not allow it, or it is not clear."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _UnfitError("two keys of one object have the same name")
    return found


def _no_number(constant: str) -> Any:
    raise _UnfitError(f"{constant} is no number in JSON")


def _wrong(why: str) -> ApiError:
    return ApiError(400, f"the body cannot be read: {why}", code="invalid_json")

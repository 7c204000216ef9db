"""Server-sent events as chat completions stream them: JSON objects, then ``[DONE]``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2

from libra_guard.records import as_json
from libra_guard.serve.proxy.fields import read_json
from libra_guard.serve.proxy.upstream import UpstreamError, error_in, error_words, telling

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which clients skip: the connection lives."""
_END = "[DONE]"


async def read_events(response: httpx2.Response) -> AsyncGenerator[dict[str, Any] | None]:
    """What an upstream streams.

    An event at the end that no blank line follows is not complete (WHATWG HTML, 9.2.6) and is left out.

    Yields:
        Each event's object, and None for ``[DONE]``, which is the last. A stream without it has been cut off.

    Raises:
        UpstreamError: It is no event stream, an event is no JSON object or too long, one is an error, or the connection
            failed.
    """
    with telling():
        async for event in httpx2.EventSource(response):
            if event.data == _END:
                yield None
                return
            if event.data:
                found = _object(event.data)
                # Clients take a chunk with an error for one, whatever stands beside it.
                error = found if event.event == "error" else found.get("error") or error_in(found)
                if error is not None:
                    raise UpstreamError("status", "the upstream failed midway", words=error_words(error))
                yield found


def write_event(event: Mapping[str, Any]) -> bytes:
    """An event with an object."""
    text = as_json(event, ensure_ascii=False, separators=(",", ":"))
    try:
        return f"data: {text}\n\n".encode()
    except UnicodeEncodeError:
        # Half a surrogate pair, whose other half is in the next chunk: only an escape can carry it.
        return f"data: {as_json(event, separators=(',', ':'))}\n\n".encode()


def _object(data: str) -> dict[str, Any]:
    try:
        found = read_json(data)
    except ValueError:
        raise UpstreamError("garbage", "the upstream streamed an event that is no JSON") from None
    if not isinstance(found, dict):
        raise UpstreamError("garbage", "the upstream streamed an event that is no JSON object")
    return found

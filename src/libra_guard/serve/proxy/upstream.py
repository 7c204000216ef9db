"""The server behind the proxy: requests to it as they came, its failures as errors in OpenAI's shape."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
from starlette.requests import Request

from libra_guard.errors import UsageError
from libra_guard.serve.errors import ApiError, error_body
from libra_guard.serve.proxy.fields import read_json
from libra_guard.serve.settings import ServerSettings

_log = logging.getLogger(__name__)
MAX_ANSWER_BYTES = 16 << 20
"""Of an answer that does not stream."""
CONNECT_SECONDS = 10.0
_LONGEST_WORDS = 500
_NO_SUCH_PATH = (404, 405)
_HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    )
)
"""RFC 9110, 7.6.1."""
_KEYS = frozenset({"authorization", "api-key", "x-api-key"})
_NOT_UP = _HOP_BY_HOP | _KEYS | {"host", "content-length", "content-type", "accept-encoding", "cookie", "expect"}
_NOT_DOWN = _HOP_BY_HOP | {
    "content-length",
    "content-encoding",
    "content-type",
    "set-cookie",
    "date",
    "server",
    "alt-svc",
    "x-request-id",
}
"""A cookie would be one for the upstream's own pages; the rest this server says itself."""
_NOT_DOWN_BEGIN = ("x-libra-", "access-control-")


class UpstreamError(ApiError):
    """The upstream gave no good answer.

    Args:
        kind: ``connect``, ``timeout``, ``status``, ``garbage`` or ``cut``; counted.
        message: For people.
        words: The upstream's own, which a model may have written: nobody has judged them yet.
        status: Of the answer.
        headers: Of the answer.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        words: str = "",
        status: int = 502,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, type="server_error", code=f"upstream_{kind}", headers=headers)
        self.kind, self.words = kind, words

    def quote(self) -> None:
        """Puts the upstream's words into the message."""
        self.message += f": {self.words}" if self.words else ""


class Upstream:
    """Sends requests on.

    Who asks is known to the upstream by the server's own ``upstream_key``. Without one the key that came with the
    request is sent on, but only where this server asks for none itself: it might be the one for this server.

    Made and closed in one event loop.

    Args:
        settings: ``upstream`` is given.

    Raises:
        UsageError: The upstream's address is wrong, or the environment names a proxy that cannot be used, as SOCKS.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._base = str(settings.upstream)
        try:
            host = httpx2.URL(self._base).host
        except httpx2.InvalidURL as error:
            raise UsageError(f"the upstream's address is wrong: {error}") from None
        if not host:
            raise UsageError(f"the upstream's address names no host: {self._base}")
        timeout = httpx2.Timeout(settings.upstream_timeout, connect=min(CONNECT_SECONDS, settings.upstream_timeout))
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
        try:
            self._client = httpx2.AsyncClient(timeout=timeout, limits=limits)
        except (ImportError, ValueError):
            # Not quoted: a proxy's address may hold a password.
            names = "ALL_PROXY, HTTPS_PROXY or HTTP_PROXY"
            raise UsageError(f"the environment names a proxy ({names}) that cannot be used; unset it") from None
        self._key = settings.upstream_key
        self._hands_keys_on = self._key is None and not settings.keys()

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.aclose()

    async def ask(self, request: Request, path: str, body: bytes | None = None) -> httpx2.Response:
        """Sends a request on, and waits for the head of its answer.

        Args:
            request: As it came; its method, query and headers are kept.
            path: Under the base URL, ``/models``.
            body: JSON in UTF-8; sent as it is, and said to be that.

        Returns:
            An answer of status 2xx or 4xx, to be read and closed.

        Raises:
            UpstreamError: There is none, or one of another status.
        """
        query = request.url.query
        url = self._base + path + (f"?{query}" if query else "")
        headers = [
            (name, value) for name, value in request.headers.raw if self._goes_up(name.decode("latin-1"), request)
        ]
        headers.append((b"accept-encoding", b"identity"))
        if body is not None:
            headers.append((b"content-type", b"application/json"))
        if self._key is not None:
            headers.append((b"authorization", f"Bearer {self._key.get_secret_value()}".encode()))
        with telling():
            asked = httpx2.Request(request.method, url, headers=headers, content=body)
            response = await self._client.send(asked, stream=True)
        if not self._is_bad(response.status_code):
            return response
        try:
            raise await self._failure(response)
        finally:
            await response.aclose()

    def _goes_up(self, name: str, request: Request) -> bool:
        if name in _KEYS:
            return self._hands_keys_on
        return name not in _NOT_UP and not name.startswith("x-libra-") and name not in _named(request.headers)

    def _is_bad(self, status: int) -> bool:
        # Where the client's key does not go up, who asks can do nothing about a missing or wrong one, and must not see
        # the server's own quoted.
        return not (200 <= status < 300 or 400 <= status < 500) or (not self._hands_keys_on and status in (401, 403))

    async def _failure(self, response: httpx2.Response) -> UpstreamError:
        status = response.status_code
        if status in (401, 403):
            _log.warning("the upstream answered %d; see LIBRA_SERVE_UPSTREAM_KEY", status)
            if self._key is not None:
                return UpstreamError("status", f"the upstream does not take this server's key ({status})")
            hint = "whoever runs this server should see whether it needs LIBRA_SERVE_UPSTREAM_KEY"
            return UpstreamError("status", f"the upstream was sent no key, and answered {status}; {hint}")
        words = _words(await read_body(response))
        wait = {name: response.headers[name] for name in ("retry-after",) if name in response.headers}
        message = f"the upstream answered {status}"
        return UpstreamError("status", message, words=words, status=503 if status == 503 else 502, headers=wait)


async def read_body(response: httpx2.Response) -> bytes:
    """An answer's body.

    Raises:
        UpstreamError: It breaks off, or is longer than ``MAX_ANSWER_BYTES``.
    """
    parts, size = [], 0
    with telling():
        async for part in response.aiter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamError("garbage", f"the upstream's answer is longer than {MAX_ANSWER_BYTES:,} bytes")
    return b"".join(parts)


async def read_object(response: httpx2.Response) -> dict[str, Any]:
    """An answer's body, a JSON object.

    Raises:
        UpstreamError: It is none, or an error in spite of its status.
    """
    kind = media_type(response)
    raw = await read_body(response)
    try:
        found = read_json(raw.decode())
    except ValueError:
        # Web interfaces answer any path with their page.
        hint = _hint(response.status_code) if kind == "text/html" else ""
        raise UpstreamError("garbage", f"the upstream's answer is not JSON, but {kind or 'of no type'}{hint}") from None
    if not isinstance(found, dict):
        raise UpstreamError("garbage", "the upstream's answer is no JSON object")
    if error := error_in(found):
        raise UpstreamError("status", "the upstream answered with an error", words=error_words(error))
    return found


async def read_fault(response: httpx2.Response) -> dict[str, Any]:
    """The body of an answer that says what the caller did wrong; in OpenAI's shape where it is no JSON object.

    A 404 that is no error of an API's own is one of a path that is not there: most likely the base URL is wrong.
    """
    raw = await read_body(response)
    status = response.status_code
    try:
        found = read_json(raw.decode())
    except ValueError:
        found = None
    if isinstance(found, dict) and (status not in _NO_SUCH_PATH or {"error", "message"} & found.keys()):
        return found
    if status in _NO_SUCH_PATH:
        message = f"the upstream has nothing to ask at this path ({status}){_hint(status)}"
    else:
        message = f"the upstream answered {status}, and not in JSON"
    return error_body(ApiError(status, message, code="upstream_status"))


def media_type(response: httpx2.Response) -> str:
    """What a response says it is, without parameters."""
    kind: str = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind[:100]


def headers_down(response: httpx2.Response) -> dict[str, str]:
    """The headers of an answer that go on to who asked; not those that HTTP cannot carry, such as Chinese ones."""
    named = _named(response.headers)
    return {
        name: value
        for name, value in response.headers.items()
        if name not in _NOT_DOWN
        and name not in named
        and not name.startswith(_NOT_DOWN_BEGIN)
        and (name + value).isascii()
    }


@contextmanager
def telling() -> Iterator[None]:
    """Turns the errors of the HTTP client into ``UpstreamError``; none quotes the address, which may hold a key."""
    try:
        yield
    except httpx2.ConnectTimeout:
        raise UpstreamError("connect", "the upstream cannot be reached in time", status=504) from None
    except httpx2.ConnectError:
        raise UpstreamError("connect", "the upstream cannot be reached") from None
    except httpx2.TimeoutException:
        raise UpstreamError("timeout", "the upstream did not answer in time", status=504) from None
    except (httpx2.SSEError, httpx2.DecodingError) as error:
        raise UpstreamError("garbage", f"the upstream's answer cannot be read: {type(error).__name__}") from None
    except httpx2.HTTPError as error:
        raise UpstreamError("cut", f"the connection to the upstream broke: {type(error).__name__}") from None


def error_in(found: Mapping[str, Any]) -> Any:
    """The error in a completion or chunk: beside no choices, or beside or in one that ended with it."""
    choices = found.get("choices")
    listed = choices if isinstance(choices, list) else []
    ended = [one for one in listed if isinstance(one, dict) and one.get("finish_reason") == "error"]
    errors = [one["error"] for one in (found, *ended) if one.get("error")]
    return errors[0] if errors and (ended or not choices) else None


def error_words(error: Any) -> str:
    """What an error object, or a text in its place, says for people; empty where it says nothing."""
    if isinstance(error, Mapping):
        inner = error.get("error")
        return error_words(error.get("message") or inner or error.get("detail"))
    return error.strip()[:_LONGEST_WORDS] if isinstance(error, str) else ""


def _hint(status: int) -> str:
    """What to look at where the address seems to be none of an API's; for the log too, which whoever set it reads."""
    # Without the address, which may hold a key.
    _log.warning("the upstream answered %d as if it had no API there; see --upstream: most end in /v1", status)
    return "; whoever runs this server should see whether --upstream needs /v1 at its end"


def _words(body: bytes) -> str:
    try:
        return error_words(read_json(body.decode()))
    except ValueError:
        return ""


def _named(headers: Mapping[str, str]) -> Iterable[str]:
    """The headers that belong to one connection because ``Connection`` names them."""
    return [name.strip().lower() for name in headers.get("connection", "").split(",")]

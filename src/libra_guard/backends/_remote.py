"""What the backends for servers share: an event loop of their own, bounded concurrency, retries, errors for people."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import stamina

from libra_guard.backends._options import option_names
from libra_guard.backends._retries import MAX_RETRY_AFTER, Notice, retry_after
from libra_guard.errors import (
    BackendError,
    BusyError,
    DeniedError,
    HaltedError,
    RefusedError,
    ServerError,
    UsageError,
)

Item = TypeVar("Item")
Result = TypeVar("Result")

_NO_MATTER = frozenset({"base_url", "api_key", "concurrency", "timeout", "retries", "backoff", "max_backoff"})
"""Options that change no answer, and the address, which the provenance has by itself."""
_REFUSALS = frozenset({400, 403, 413, 422})
"""Statuses that speak of what was asked, and not of the server: a content filter (400 at OpenAI and Azure, 403 at
OpenRouter), a text that is too long (400, 413), a field of the wrong form (422). A wrong key (401) or an unknown model
(404) meets every input alike, and so may these: whether a greeting is taken tells.
"""
_BUSY = frozenset({429, 503, 529})
"""Statuses that speak of the server alone: its limit of requests, too much work (529 at Anthropic), not yet ready."""
_PASSING = frozenset({402, 408, 409, 425})
"""Of the statuses that blame the call, those that the same call may not meet again: an account that is empty (402)."""
_MENDS = {401: "the key", 404: "the model's name and base_url"}
"""What to look at where no repetition helps; base_url where nothing stands here."""


MAX_ANSWER_BYTES = 4 << 20
"""Of an answer as it is read, unpacked: a hundred thousand tokens, and room; a server that does not end is left."""


class UnreadableError(Exception):
    """The server's answer is not of the form that its API promises."""


class TooLongError(Exception):
    """The server's answer has more than ``MAX_ANSWER_BYTES``."""


class Remote:
    """Runs requests from synchronous code, many at once, each with retries.

    Retried are connection errors, timeouts, answers of the wrong form, and the statuses 408, 409, 429 and 5xx, with
    growing pauses or after the time that ``Retry-After`` asks for. A request that waits keeps its place, so a server
    that is too busy is asked less.

    Args:
        name: Of the backend, for messages.
        sdk: ``openai`` or ``anthropic``; their error classes have the same names.
        close: Closes the client; called once, in the loop.
        address: The server's, for messages.
        concurrency: Requests at a time.
        retries: Further attempts after the first.
        backoff: Seconds before the second attempt; doubled for each next one, with as much jitter.
        max_backoff: Seconds that a pause may grow to.

    Raises:
        UsageError: A number makes no sense.
    """

    def __init__(
        self,
        name: str,
        sdk: ModuleType,
        close: Callable[[], Awaitable[None]],
        *,
        address: str,
        concurrency: int,
        retries: int,
        backoff: float,
        max_backoff: float,
    ) -> None:
        if concurrency < 1 or retries < 0 or backoff < 0:
            raise UsageError("concurrency must be at least 1, retries and backoff at least 0")
        self._name, self._sdk, self._address = name, sdk, address
        self._slots = asyncio.Semaphore(concurrency)
        self._patience = {
            "attempts": retries + 1,
            "timeout": None,
            "wait_initial": backoff,
            "wait_jitter": backoff,
            "wait_max": max_backoff,
        }
        self._notice = Notice(f"the backend '{name}' at {address}")
        self._kept: dict[bytes, Any] = {}
        self._lock = threading.Lock()
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self._cancelled = False
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name=f"libra-{name}", daemon=True)
        thread.start()
        # Also runs when the backend is forgotten, and before the interpreter ends.
        self.close = weakref.finalize(self, _stop, self._loop, thread, close)

    def map(self, call: Callable[[Item], Awaitable[Result]], items: Sequence[Item], settings: object) -> list[Result]:
        """Calls for every item, results in the items' order.

        Where an item fails, those that wait are given up, and what the others brought is kept: asked for again with
        the same settings, one by one to find the bad one out, it is not paid for twice. Where nobody takes the
        connection, those under way are given up too.

        Args:
            call: Asks the server.
            items: What is asked; told apart by their ``repr``.
            settings: What else the answer depends on.

        Raises:
            RefusedError: The server does not take one item, or does not end its answer.
            DeniedError: It takes none from this call.
            BusyError: It takes none now.
            ServerError: One item failed for good.
            HaltedError: ``cancel`` was called.
        """
        if not self.close.alive:
            raise BackendError(f"the backend '{self._name}' is closed")
        keys = [hashlib.sha256(repr((settings, item)).encode(errors="surrogatepass")).digest() for item in items]
        with self._lock:
            self._check()
            future = asyncio.run_coroutine_threadsafe(self._all(call, items, keys), self._loop)
            self._calls.add(future)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            self._check()
            raise
        except BaseException:
            future.cancel()
            raise
        finally:
            with self._lock:
                self._calls.discard(future)

    def cancel(self) -> None:
        """Ends all calls under way with their pauses, from any thread; nothing more is sent."""
        with self._lock:
            self._cancelled = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def _check(self) -> None:
        if self._cancelled:
            raise HaltedError(f"the backend '{self._name}' was told to end")

    async def _all(
        self, call: Callable[[Item], Awaitable[Result]], items: Sequence[Item], keys: Sequence[bytes]
    ) -> list[Result]:
        self._check()
        failures: list[BackendError] = []
        found: dict[int, Result] = {}

        async def run(place: int) -> None:
            if keys[place] in self._kept:
                found[place] = self._kept.pop(keys[place])
                return
            async with self._slots:
                if failures:
                    return
                try:
                    found[place] = await self._one(call, items[place])
                except BackendError as error:
                    failures.append(error)
                    if isinstance(error, BusyError) and not error.there:
                        # Nobody takes the others either: they are not waited for.
                        raise

        try:
            async with asyncio.TaskGroup() as group:
                for place in range(len(items)):
                    group.create_task(run(place))
        except ExceptionGroup as errors:
            for error in errors.exceptions:
                if error not in failures:
                    raise error from None
        if failures:
            if len(items) > 1:
                self._kept = {keys[place]: result for place, result in found.items()}
            raise failures[0]
        return [found[place] for place in range(len(items))]

    async def _one(self, call: Callable[[Item], Awaitable[Result]], item: Item) -> Result:
        attempts = 0
        try:
            # Not stamina's callers: they would put the item, a user's text, into the log.
            async for attempt in stamina.retry_context(self._retry, **self._patience):  # type: ignore[arg-type]
                with attempt:
                    attempts += 1
                    return await call(item)
        except (self._sdk.APIError, TooLongError, UnreadableError, json.JSONDecodeError) as error:
            tried = f" ({attempts} attempts)" if attempts > 1 else ""
            raise _failure(error, f"the backend '{self._name}': {self._words(error)}{tried}", self._address) from error
        raise AssertionError("stamina neither returned nor raised")

    def _retry(self, error: Exception) -> bool | float:
        """Whether to try again, or after how many seconds."""
        again = self._again(error)
        if again is not False:
            self._notice.take(self._words(error))
        return again

    def _again(self, error: Exception) -> bool | float:
        if _too_long(error):
            return False
        if isinstance(error, (self._sdk.APIConnectionError, UnreadableError, json.JSONDecodeError)):
            return True
        status = getattr(error, "status_code", 0)
        if status not in (408, 409, 429) and status < 500:
            return False
        asked = retry_after(error.response.headers)  # type: ignore[attr-defined]
        if asked is None:
            return True
        return asked if asked <= MAX_RETRY_AFTER else False

    def _words(self, error: Exception) -> str:
        if long := _too_long(error):
            return str(long)
        if isinstance(error, self._sdk.APITimeoutError):
            return "the server did not answer in time"
        if isinstance(error, self._sdk.APIConnectionError):
            cause = error.__cause__ or error
            return f"no connection to the server: {str(cause) or type(cause).__name__}"
        if isinstance(error, json.JSONDecodeError):
            return f"the server's answer is no JSON: {error}"
        status = getattr(error, "status_code", None)
        if status is None:
            return str(error)
        return f"the server answered {status}: {_message(getattr(error, 'body', None)) or error}"


def deciding(backend: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a backend's options that may change an answer, for its provenance.

    Which there are, its constructor says: one that is new is told, or stands among those that do not matter.

    Args:
        backend: The backend.
        options: What they are.

    Raises:
        KeyError: One of them is not told.
    """
    return {name: options[name] for name in option_names(backend) if name not in _NO_MATTER}


def check_address(address: str | None) -> None:
    """Makes sure that a server's address is one; None where the SDK has its own.

    Raises:
        UsageError: It is none. The address is not told: what is wrong with it may be a password in it.
    """
    try:
        parts = urlsplit(address or "https://default")
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if wrong:
        raise UsageError("base_url is no address; one is e.g. http://127.0.0.1:8000/v1")


def bounded_client(sdk: ModuleType) -> Any:
    """The SDK's own HTTP client, which leaves an answer at ``MAX_ANSWER_BYTES``."""

    async def bound(response: Any) -> None:
        whole = response.aiter_bytes

        async def read(*args: Any) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in whole(*args):
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    raise TooLongError(f"the server's answer is longer than {MAX_ANSWER_BYTES} bytes")
                yield chunk

        response.aiter_bytes = read

    return sdk.DefaultAsyncHttpxClient(event_hooks={"response": [bound]})


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns the errors of reading an answer of the wrong form into one that is retried."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"the server's answer has no {what}: {error}") from error


def _failure(error: Any, words: str, address: str) -> BackendError:
    """What an attempt came to that was the last."""
    status = getattr(error, "status_code", None)
    if status in _BUSY:
        return BusyError(words, after=retry_after(error.response.headers))
    # By name: which library the SDK connects with is its own affair.
    if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
        return BusyError(f"{words}; check base_url, and that a server runs at {address}", there=False)
    if status in _REFUSALS or _too_long(error):
        return RefusedError(words)
    if status is not None and 400 <= status < 500 and status not in _PASSING:
        return DeniedError(f"{words}; check {_MENDS.get(status, 'base_url')}")
    return ServerError(words)


def _too_long(error: BaseException) -> TooLongError | None:
    # Some versions of the SDKs let it through, others call it an error of the connection.
    return next((one for one in (error, error.__cause__) if isinstance(one, TooLongError)), None)


def _message(body: Any) -> str | None:
    """The server's own words, wherever it put them."""
    if isinstance(body, Mapping):
        inner = body.get("error")
        words = body.get("message") or (_message(inner) if isinstance(inner, Mapping) else inner) or body.get("detail")
        return str(words) if words else None
    return body.strip()[:500] if isinstance(body, str) else None


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, close: Callable[[], Awaitable[None]]) -> None:
    if threading.current_thread() is thread:
        # Forgotten while the loop itself ran: it cannot wait for itself.
        loop.call_soon(loop.stop)
        return

    async def closing() -> None:
        await close()

    with contextlib.suppress(Exception):
        work: Coroutine[Any, Any, None] = closing()
        asyncio.run_coroutine_threadsafe(work, loop).result(timeout=5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=5)
    if not loop.is_running():
        loop.close()

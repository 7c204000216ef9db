"""What both clients share: what is asked, what is asked again, and how answers are read.

The methods are generators that know of no connection: they yield a request or a pause, and are sent what came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import ssl
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

from libra_guard.configuration import unsendable
from libra_guard.errors import BackendError, LibraError, RefusedError, UsageError, require
from libra_guard.guards.conversations import checked_conversations
from libra_guard.policy import Action, Decision
from libra_guard.predict.arrivals import Arrivals, FirstHit
from libra_guard.predict.stream import StreamSettings
from libra_guard.records import Conversation, Message, Target, Verdict, check_text

MAX_PAUSE = 60.0
"""Seconds; a server that asks for more patience than this has failed for now."""
HOLD_MS = StreamSettings().hold_ms
"""As in the proxy where nobody set it otherwise."""
_FIRST_PAUSE = 0.25
_BUSY = frozenset({429, 503})
_GATHERED = 40
"""Characters of a growing answer that are sent together where no sentence ends before."""
_UNASKED = 100
"""Characters of it that are sent at once without asking how many the server takes: models mostly give few."""
_PIECE = 1000
"""Characters of it that are sent at once at most, so that the beginning of a long chunk need not wait for its end."""
_ENDS = frozenset("。！？；…!?;\n")

Result = TypeVar("Result")


class Judged(Verdict):
    """A verdict as a guard gives it, and what the server's policy makes of it."""

    decision: Decision
    answer: str | None = None
    """The policy's safe answer, in the language of the question, where it says to block."""

    @property
    def blocked(self) -> bool:
        """Whether the policy says to block."""
        return self.decision.action is Action.BLOCK


class Moderation(BaseModel):
    """What the moderation interface says of one text; fields that are not named here are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]


class Ask(NamedTuple):
    """A request to be sent."""

    method: str
    path: str
    body: dict[str, Any] | None = None


class Pause(NamedTuple):
    """Time to let pass."""

    seconds: float


class Reply(NamedTuple):
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    text: str


class Failure(NamedTuple):
    """No answer, and why."""

    words: str
    again: bool
    """Whether the request may be sent once more."""


class Limits(NamedTuple):
    """What the server takes in one request; by default as where nobody set it otherwise."""

    max_conversations: int = 100
    max_chars: int = 20_000
    queue_chars: int = 1_000_000
    max_body_bytes: int = 1_000_000


# Yields what is to be done next; is sent what came of it, and nothing after a pause.
Steps = Generator[Ask | Pause, Reply | Failure | None, Result]


class ClientBase:
    """What both clients share: everything but the network.

    Raises:
        UsageError: The address is none, or a number makes no sense.
        MissingExtraError: The extra ``serve`` is not installed.
    """

    def __init__(self, base_url: str, api_key: str | None, timeout: float, retries: int) -> None:
        if timeout <= 0 or retries < 0:
            raise UsageError("timeout must be more than 0, retries at least 0")
        self._httpx: Any = require("httpx2", "serve")
        try:
            address = self._httpx.URL(base_url)
        except (TypeError, self._httpx.InvalidURL):
            address = None
        if address is None or address.scheme not in ("http", "https") or not address.host:
            raise UsageError("base_url is no address of a server: give one such as http://127.0.0.1:8300")
        # Users of the openai client are used to give the /v1 too.
        self._base = base_url.rstrip("/").removesuffix("/v1")
        # In messages; without the user and password that an address may hold.
        self._shown = f"{address.scheme}://{address.netloc.decode()}"
        self._timeout, self._retries = timeout, retries
        self._limits: Limits | None = None
        key = api_key or os.environ.get("LIBRA_API_KEY")
        if key and (fault := unsendable(key)):
            raise UsageError(f"the API key {fault}")
        self._settings: dict[str, Any] = {
            "timeout": timeout,
            "headers": {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})},
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown!r})"

    def _judge(self, conversations: Sequence[Conversation], *, explain: bool, **options: Any) -> Steps[list[Judged]]:
        fields = given(explain=explain or None, **options)
        checked = checked_conversations(conversations, "server", frozenset(Target))
        rows = [{"messages": _written(c.messages)} for c in checked]
        found: list[Judged] = []
        for batch in (yield from self._batches(rows)):
            answer = yield from self._answer(Ask("POST", "/v1/guard", {"conversations": batch, **fields}))
            with self._reading():
                read = [judged(row) for row in answer["results"]]
                _same_length(read, batch)
            found += read
        return found

    def _moderate(self, texts: Sequence[str], **options: Any) -> Steps[list[Moderation]]:
        fields = given(**options)
        if isinstance(texts, str):
            raise TypeError("moderate takes a list of texts, not a text")
        found: list[Moderation] = []
        for batch in (yield from self._batches([check_text(text, "text") for text in texts])):
            answer = yield from self._answer(Ask("POST", "/v1/moderations", {"input": batch, **fields}))
            with self._reading():
                read = [Moderation.model_validate(row) for row in answer["results"]]
                _same_length(read, batch)
            found += read
        return found

    def _listed(self, path: str) -> Steps[list[dict[str, Any]]]:
        answer = yield from self._answer(Ask("GET", path))
        with self._reading():
            return [dict(row) for row in answer["data"]]

    def _batches(self, rows: list[Any]) -> Steps[list[list[Any]]]:
        """Cuts what is more than the server takes at once."""
        limits = (yield from self._taken()) if len(rows) > 1 else Limits()
        batches: list[list[Any]] = []
        room = chars_left = 0
        for row in rows:
            size = len(json.dumps(row, ensure_ascii=False).encode()) + 2
            # Whether the guard reads earlier turns need not be known: all count.
            chars = len(row) if isinstance(row, str) else sum(len(message["content"]) for message in row["messages"])
            if size > room or chars > chars_left or len(batches[-1]) == limits.max_conversations:
                batches.append([])
                # The other fields of a request need a little of it.
                room, chars_left = limits.max_body_bytes - 1000, limits.queue_chars
            batches[-1].append(row)
            room, chars_left = room - size, chars_left - chars
        return batches

    def _taken(self) -> Steps[Limits]:
        """How much the server takes at once; it is asked when that first matters."""
        if self._limits is None:
            answer = yield from self._answer(Ask("GET", "/v1/guards"))
            with self._reading():
                self._limits = Limits(**{name: int(answer[name]) for name in Limits._fields if name in answer})
        return self._limits

    def _answer(self, ask: Ask) -> Steps[Any]:
        """The JSON that the server answers, at the last attempt if need be."""
        attempt = 0
        while True:
            reply = yield ask
            pause = _pause(reply, attempt)
            if pause is None or attempt == self._retries:
                return self._read(reply, attempt)
            yield Pause(pause)
            attempt += 1

    def _read(self, reply: Reply | Failure | None, attempt: int) -> Any:
        tried = f" ({attempt + 1} attempts)" if attempt else ""
        if not isinstance(reply, Reply):
            raise BackendError(f"the server {self._shown} {reply.words if reply else 'said nothing'}{tried}")
        if reply.status == 200:
            with self._reading():
                return json.loads(reply.text)
        message, code = _error(reply.text)
        raise _kind(reply.status, code)(f"the server {self._shown} answered {reply.status}: {message}{tried}")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turns the errors of reading an answer of another form into one for people."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Not the error's own words: they would show the answer, and with it a user's text.
            raise BackendError(f"what answers at {self._shown} does not answer as Libra's server does") from error

    def _failure(self, error: Exception) -> Failure:
        """What to make of an error of the network, and what can be done about it."""
        http, said = self._httpx, str(error).rstrip(".") or type(error).__name__
        within = f"within {self._timeout:g} s, the client's timeout"
        match error:
            case http.ConnectTimeout():
                return Failure(f"cannot be reached {within}: is the address right, no firewall between?", again=True)
            case http.PoolTimeout():
                return Failure(f"was not asked {within}: too many requests of this client wait", again=False)
            case http.TimeoutException():
                # Not again: a server that is too slow has no need of the same work twice.
                return Failure(f"did not answer {within}: give a longer one, or ask for less at once", again=False)
            case http.ConnectError() if _of_tls(error):
                advice = "its certificate must be trusted here (SSL_CERT_FILE); http:// where it speaks no TLS"
                return Failure(f"cannot be reached over TLS: {said}; {advice}", again=False)
            case http.ConnectError():
                return Failure(f"cannot be reached: {said}; is it running, and at this address?", again=True)
            case http.ProxyError():
                return Failure(f"cannot be reached through the proxy that the environment names: {said}", again=True)
            case http.NetworkError() | http.RemoteProtocolError():
                return Failure(f"broke the connection off before its answer was whole: {said}; see its log", again=True)
        return Failure(f"and this client do not understand each other: {said}", again=False)


class Growing:
    """An answer that grows: what of it was sent, and what the server said of it."""

    stopped: Judged | None = None
    """The verdict that ended the stream, with the decision; None where nothing did."""
    first_hit: FirstHit | None = None
    """How fast the part was found that ended the stream, by the clock here; None where nothing did."""

    def __init__(
        self, server: ClientBase, question: str | Sequence[Message], hold_ms: float, fields: dict[str, Any]
    ) -> None:
        if not hold_ms > 0:
            raise UsageError("hold_ms must be more than 0")
        if isinstance(question, str):
            asked: dict[str, Any] = {"question": check_text(question, "question")} if question else {}
        else:
            asked = {"messages": _written(question)} if question else {}
        self._server, self._fixed = server, {**asked, **fields}
        self._gathered, self._state = "", None
        self._hold, self._arrivals = hold_ms / 1000, Arrivals()

    def _take(self, chunk: str | None) -> Iterator[Steps[str]]:
        """Adds a chunk; where it is time to send what there is, gives requests, each for the text to be shown then."""
        chunk = "" if chunk is None else chunk
        self._gathered += chunk
        self._arrivals.came(self._arrivals.received + len(chunk))
        if len(self._gathered) >= _GATHERED or not _ENDS.isdisjoint(chunk) or self._overdue():
            yield from self._send_all()

    def _send_all(self, end: bool = False) -> Iterator[Steps[str]]:
        """Gives requests until all that was gathered is sent, or the answer is stopped."""
        yield self._sent(end)
        while self._gathered and not self.stopped:
            yield self._sent(end)

    def _overdue(self) -> bool:
        return self._arrivals.waited() >= self._hold

    def _sent(self, end: bool) -> Steps[str]:
        """Sends what was gathered, or a piece of it where it is long; returns text that may be shown now."""
        most = _UNASKED
        if len(self._gathered) > most:
            most = min(_PIECE, (yield from self._server._taken()).max_chars)
        text, self._gathered = self._gathered[:most], self._gathered[most:]
        last = not self._gathered
        body = {**self._fixed, "text": text, "state": self._state, "end": end and last}
        if last and not end and self._overdue():
            body["flush"] = True
        answer = yield from self._server._answer(Ask("POST", "/v1/guard/stream", body))
        with self._server._reading():
            released, self._state = answer["released"], answer["state"]
            if answer["stopped"]:
                last = answer["windows"][-1]
                self.stopped = judged({**last, "answer": answer["answer"]})
                self.first_hit = self._arrivals.hit(last["end"])
            self._arrivals.release(self._arrivals.released + len(released))
            return str(released)


def judged(row: Mapping[str, Any]) -> Judged:
    """Reads a result as the server writes it: ``verdict``, ``decision``, and an ``answer`` where there is one.

    Raises:
        KeyError: One of them is missing.
        ValueError: One of them is of another form.
    """
    return Judged.model_validate({**row["verdict"], "decision": row["decision"], "answer": row.get("answer")})


def given(**fields: Any) -> dict[str, Any]:
    """The fields of a request that were given."""
    return {name: value for name, value in fields.items() if value is not None}


def content(body: dict[str, Any] | None) -> bytes | None:
    """A request's body as it is sent.

    Raises:
        UsageError: A text in it holds a lone surrogate.
    """
    try:
        return None if body is None else json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageError("a text holds a lone surrogate, which no server takes") from None


def _written(messages: Sequence[Message]) -> list[dict[str, str]]:
    if wrong := [message for message in messages if not isinstance(message, Message)]:
        raise TypeError(f"messages are libra_guard.records.Message, not {type(wrong[0]).__name__}")
    return [{"role": message.role.value, "content": message.content} for message in messages]


def _of_tls(error: BaseException | None) -> bool:
    """Whether an error comes from one of TLS: the libraries have no class of their own for it."""
    while error and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


def _same_length(read: Sequence[object], asked: Sequence[object]) -> None:
    if len(read) != len(asked):
        raise ValueError(f"{len(read)} results for {len(asked)} rows")


def _pause(reply: Reply | Failure | None, attempt: int) -> float | None:
    """Seconds before the next attempt; None where there is to be none."""
    growing: float = _FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.5)
    if not isinstance(reply, Reply):
        return growing if reply is not None and reply.again else None
    if reply.status not in _BUSY:
        return None
    try:
        asked = float(reply.headers["retry-after"])
    except (KeyError, ValueError):
        return growing
    return None if asked > MAX_PAUSE else max(asked, 0.0)


def _error(text: str) -> tuple[str, str | None]:
    """The server's own words and its code for them; the beginning of the text where it is no error of Libra's."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = json.loads(text)["error"]
        return str(error["message"]), error.get("code")
    return " ".join(text.split())[:200] or "nothing", None


def _kind(status: int, code: str | None) -> type[LibraError]:
    if code == "refused_by_model":
        return RefusedError
    return UsageError if 400 <= status < 500 and status not in (408, 429) else BackendError

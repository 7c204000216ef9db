"""An upstream that says what a test scripts, on 127.0.0.1."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

PATH = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "你好"}], "stream": True}


@pytest.fixture(autouse=True)
def _closed_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes the openai clients of a test: a socket that the collector finds later fails whatever test runs then."""
    try:
        from openai import OpenAI
    except ImportError:
        yield
        return
    opened: list[OpenAI] = []
    made = OpenAI.__init__

    def noted(self: OpenAI, *given: Any, **named: Any) -> None:
        made(self, *given, **named)
        opened.append(self)

    monkeypatch.setattr(OpenAI, "__init__", noted)
    yield
    for client in opened:
        client.close()


@dataclass
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes | Callable[[], object]] = b""
    """Whole; or in parts, sent as they come, between which what is to be called is called."""
    cut: bool = False
    """Whether the connection breaks after it."""


@dataclass
class Arrived:
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


class Upstream:
    """``reply`` is asked what to say; ``arrived`` has what came."""

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        self.reply: Callable[[Arrived], Reply] = lambda _: Reply()
        self.closed = threading.Event()
        """Set when a client closed its connection while it was waited for; see ``until_closed``."""
        self.gate = threading.Event()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                upstream.arrived.append(Arrived(self.command, self.path, self.headers.items(), body))
                upstream.now = self
                reply = upstream.reply(upstream.arrived[-1])
                try:
                    self._send(reply)
                except ConnectionError:
                    upstream.closed.set()
                    self.close_connection = True

            do_GET = do_POST

            def _send(self, reply: Reply) -> None:
                whole = isinstance(reply.body, bytes)
                length = {"content-length": str(len(reply.body) + reply.cut)} if whole else {}
                self.send_response(reply.status)
                for name, value in ({"transfer-encoding": "chunked"} if not whole else length).items():
                    self.send_header(name, value)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in [reply.body] if whole else reply.body:
                    if callable(part):
                        part()
                    else:
                        self.wfile.write(part if whole else b"%x\r\n%s\r\n" % (len(part), part))
                        self.wfile.flush()
                if reply.cut:
                    self.close_connection = True
                elif not whole:
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that hangs up is nothing to print."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def until_closed(self) -> None:
        """A part of a reply: waits until the client closes the connection."""
        self.now.connection.settimeout(10)
        if self.now.connection.recv(1) == b"":
            self.closed.set()

    def until_gate(self) -> None:
        """A part of a reply: waits until the test goes on."""
        assert self.gate.wait(10)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    # What a good server says.

    def says(self, *contents: str | None, **message: Any) -> None:
        """One choice for each text; further fields of every message."""
        choices = [
            {"index": i, "message": {"role": "assistant", "content": c, **message}, "finish_reason": "stop"}
            for i, c in enumerate(contents)
        ]
        self.completes({"choices": choices})

    def completes(self, completion: dict[str, Any], **headers: str) -> None:
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        start = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
        body = json.dumps({**start, **completion}, ensure_ascii=False).encode()
        self.reply = lambda _: Reply(headers={"content-type": "application/json", **headers}, body=body)

    def streams(self, *events: Any, cut: bool = False, done: bool = True) -> None:
        """Chunks as ``chunk`` makes them, bytes as they are, and what is to be called."""
        parts = [event(one) if isinstance(one, dict) else one for one in events]
        if done:
            parts.append(b"data: [DONE]\n\n")
        headers = {"content-type": "text/event-stream; charset=utf-8"}
        self.reply = lambda _: Reply(headers=headers, body=parts, cut=cut)


def event(found: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(found, ensure_ascii=False)}\n\n".encode()


def chunk(content: str | None = None, *, index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """A chunk of a stream."""
    delta = delta if content is None else {"content": content, **delta}
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


@pytest.fixture
def script() -> SimpleNamespace:
    """``Reply``, ``chunk`` and ``event``, for tests: a conftest cannot be imported."""
    return SimpleNamespace(Reply=Reply, chunk=chunk, event=event)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.gate.set()
    made.close()


# Streams, as they come down.


def chunks_of(text: str) -> list[Any]:
    """The objects in a stream, and "[DONE]"."""
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


def ask_stream(proxy: Any, **fields: Any) -> list[Any]:
    answer = proxy.post(PATH, json={**ASK, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return chunks_of(answer.text)


def text_of(found: Iterable[Any], index: int = 0, field: str = "content") -> str:
    parts = [c for one in found if one != "[DONE]" for c in one.get("choices", []) if c["index"] == index]
    return "".join(part["delta"].get(field) or "" for part in parts)


def finishes(found: Iterable[Any]) -> list[tuple[int, str]]:
    parts = [c for one in found if one != "[DONE]" for c in one.get("choices", [])]
    return [(part["index"], part["finish_reason"]) for part in parts if part["finish_reason"]]


@pytest.fixture
def ask() -> Callable[..., list[Any]]:
    """``ask(proxy, **fields)`` → the objects that are streamed, and "[DONE]"."""
    return ask_stream


@pytest.fixture(name="chunks")
def _chunks() -> Callable[[str], list[Any]]:
    """The objects in a stream's text."""
    return chunks_of


@pytest.fixture(name="text_of")
def _text_of() -> Callable[..., str]:
    """``text_of(found, index=0, field="content")``."""
    return text_of


@pytest.fixture(name="finishes")
def _finishes() -> Callable[..., list[tuple[int, str]]]:
    """Which choice ends how."""
    return finishes


# Nothing in these is judged because it has waited: that would depend on how fast the machine is.
@pytest.fixture
def proxy(make_server: Any, upstream: Any) -> Any:
    return make_server(upstream=upstream.url, stream_hold_ms=60_000)


@pytest.fixture
def chat(live: Any, upstream: Any) -> Callable[..., Any]:
    """Streams with the openai client as anybody uses it."""
    import openai

    url = live(upstream=upstream.url, stream_hold_ms=60_000).url
    client = openai.OpenAI(base_url=url + "/v1", api_key="sk-user", max_retries=0)

    def create(**fields: Any) -> Any:
        return client.chat.completions.create(model="m", messages=ASK["messages"], stream=True, **fields)

    return create


@pytest.fixture(name="chunk")
def _chunk() -> Callable[..., dict[str, Any]]:
    return chunk

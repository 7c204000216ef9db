"""Bodies that are too long or too slow, heads without an end, clients that go away: over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from libra_guard.serve.protocol import BACKLOG_LOOKS, BoundedProtocol

HEAD = b"POST /v1/moderations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


class Client:
    """A connection on which a test says what it likes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)

    def send(self, data: bytes) -> Client:
        self.socket.sendall(data)
        return self

    def takes(self, data: bytes) -> bool:
        """Whether the connection is still open for it."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def answer(self) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and body of the next answer."""
        reader = self.socket.makefile("rb")
        status = int(reader.readline().split()[1])
        headers = {}
        while line := reader.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, json.loads(reader.read(int(headers["content-length"])))

    def is_closed(self) -> bool:
        """Whether the server closes the connection; waits for it."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True


@pytest.fixture
def connect() -> Any:
    opened: list[Client] = []

    def make(port: int) -> Client:
        opened.append(Client(port))
        return opened[-1]

    yield make
    for one in opened:
        one.socket.close()


def length(count: int) -> bytes:
    return HEAD + f"content-length: {count}\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
GOOD = b'{"input": "good"}'


def test_fifty_megabytes_are_refused_before_they_came(live: Any, connect: Any, guard: Any) -> None:
    client = connect(live().port).send(length(50_000_000))
    status, _, body = client.answer()
    assert (status, body["error"]["code"]) == (413, "body_too_long")
    assert "1,000,000" in body["error"]["message"]


def test_a_client_that_sends_all_of_it_first_comes_to_read_the_answer(live: Any, connect: Any) -> None:
    client = connect(live().port).send(length(5_000_000))
    for _ in range(50):
        client.send(b"x" * 100_000)
    assert client.answer()[0] == 413
    # And goes on with its next request.
    assert client.send(length(len(GOOD)) + GOOD).answer()[0] == 200


def test_a_client_that_asks_first_is_told_not_to_send(live: Any, connect: Any) -> None:
    client = connect(live().port)
    client.send(HEAD + b"expect: 100-continue\r\ncontent-length: 50000000\r\n\r\n")
    assert client.answer()[0] == 413


def test_a_body_without_a_length_is_counted(live: Any, connect: Any, guard: Any) -> None:
    client = connect(live(max_body_bytes=1000).port).send(CHUNKED)
    client.send(chunk(b'{"input": "') + chunk(b"x" * 980))
    time.sleep(0.01)
    client.send(chunk(b"x" * 20))
    status, _, body = client.answer()
    assert (status, body["error"]["code"]) == (413, "body_too_long")
    client.send(chunk(b"x" * 50_000) + b"0\r\n\r\n" + length(len(GOOD)) + GOOD)
    assert client.answer()[0] == 200


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_limit_is_a_limit(live: Any, connect: Any, size: int, status: int, chunked: bool) -> None:
    body = b'{"input": "%s"}' % (b"x" * (size - 13))
    assert len(body) == size
    client = connect(live(max_body_bytes=1000).port)
    client.send(CHUNKED + chunk(body) + b"0\r\n\r\n" if chunked else length(size) + body)
    assert client.answer()[0] == status


@pytest.mark.parametrize("begin", [length(100) + b"{", CHUNKED + chunk(b"{"), length(100)])
def test_a_body_that_does_not_come_is_not_waited_for(live: Any, connect: Any, begin: bytes) -> None:
    client = connect(live(body_seconds=0.05).port).send(begin)
    status, headers, body = client.answer()
    assert (status, body["error"]["code"], headers["connection"]) == (408, "body_too_slow", "close")
    assert client.is_closed()


def test_a_body_that_drips_is_not_waited_for_either(live: Any, connect: Any) -> None:
    client = connect(live(body_seconds=0.1).port).send(length(1000))
    began = time.monotonic()
    while client.takes(b"x"):
        assert time.monotonic() - began < 10
        time.sleep(0.02)


@pytest.mark.parametrize("begin", [b"", b"POST /v1/moder", HEAD, HEAD + b"x-a: b"])
@pytest.mark.parametrize("before", [False, True])
def test_a_head_that_does_not_end_is_not_waited_for(
    live: Any, connect: Any, monkeypatch: Any, begin: bytes, before: bool
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 0.05)
    client = connect(live().port)
    if before:
        # A connection that was used already; without a beginning it is uvicorn that ends it.
        assert client.send(length(len(GOOD)) + GOOD).answer()[0] == 200
        begin = begin or b"P"
    assert client.send(begin).is_closed()


@pytest.mark.parametrize("before", [False, True])
def test_a_head_without_end_takes_no_memory(live: Any, connect: Any, before: bool) -> None:
    client = connect(live().port)
    if before:
        assert client.send(length(len(GOOD)) + GOOD).answer()[0] == 200
    client.send(HEAD + b"x-long: ")
    # What lies between the two, in the system's buffers, is a few megabytes.
    pieces = itertools.takewhile(lambda _: client.takes(b"x" * 10_000), range(2_000))
    assert sum(1 for _ in pieces) < 2_000


def test_a_good_connection_lives_on(live: Any, connect: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 0.2)
    client = connect(live().port)
    for _ in range(10):
        assert client.send(length(len(GOOD)) + GOOD).answer()[0] == 200
        time.sleep(0.03)


def test_a_connection_that_was_reset_leaves_no_timer(live: Any, connect: Any, monkeypatch: Any) -> None:
    lost: list[tuple[Any, Exception | None]] = []
    ended = BoundedProtocol.connection_lost

    def connection_lost(self: BoundedProtocol, exc: Exception | None) -> None:
        ended(self, exc)
        lost.append((self.timeout_keep_alive_task, exc))

    monkeypatch.setattr(BoundedProtocol, "connection_lost", connection_lost)
    client = connect(live().port)
    assert client.send(length(len(GOOD)) + GOOD).answer()[0] == 200
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    wait_for(lambda: lost)
    assert isinstance(lost[0][1], ConnectionResetError)
    assert lost[0][0] is None


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\r\n\r\n\x00\r\n\r\n", HEAD + b"content-length: x\r\n\r\n"]
)
def test_what_is_not_http_is_closed(live: Any, connect: Any, garbage: bytes) -> None:
    server = live()
    assert connect(server.port).send(garbage + b"\r\n\r\n").is_closed()
    assert connect(server.port).send(length(len(GOOD)) + GOOD).answer()[0] == 200


def full(live: Any, connect: Any, guard: Any) -> tuple[Any, Any]:
    """A server that takes one request at a time, and the client whose request the guard is at."""
    server = live(max_requests=1)
    wait_for(lambda: server.app.state.server.ready)
    guard.gate.clear()
    guard.entered.clear()
    first = connect(server.port).send(length(len(GOOD)) + GOOD)
    wait_for(guard.entered.is_set)
    return server, first


def test_more_requests_than_may_be_under_way_are_refused(live: Any, connect: Any, guard: Any) -> None:
    server, first = full(live, connect, guard)
    second = connect(server.port).send(length(len(GOOD)) + GOOD)
    status, headers, body = second.answer()
    assert (status, headers["retry-after"]) == (503, "1")
    assert (body["error"]["type"], body["error"]["code"]) == ("server_error", "too_many_requests")
    # Probes hear from a busy server too.
    assert connect(server.port).send(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").answer()[0] == 200
    guard.gate.set()
    assert first.answer()[0] == 200
    assert second.send(length(len(GOOD)) + GOOD).answer()[0] == 200
    assert 'libra_rejected_total{reason="requests"} 1.0' in server.app.state.metrics.render()[0].decode()


def test_a_client_that_hangs_up_leaves_its_place(live: Any, connect: Any, guard: Any) -> None:
    server, first = full(live, connect, guard)
    first.socket.close()
    client = connect(server.port)
    # The guard is still at it.
    wait_for(lambda: client.send(b"GET /v1/guards HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").answer()[0] == 200)


class ByHand:
    """An event loop that looks after a slow client when a test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.looks: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_later(self, seconds: float, done: Callable[..., None], *args: Any) -> Any:
        if seconds != BoundedProtocol.write_seconds:
            return self._loop.call_later(seconds, done, *args)
        self.looks.append(partial(done, *args))
        return SimpleNamespace(cancel=self.looks.clear)


class Reader:
    """A client of a real connection, on which an answer of a megabyte waits."""

    def __init__(self, loop: ByHand, transport: Any, client: socket.socket) -> None:
        self._loop, self._transport, self._client = loop, transport, client

    @property
    def left(self) -> int:
        """Bytes that the system has not taken yet."""
        return int(self._transport.get_write_buffer_size())

    async def take(self, down_to: int) -> None:
        while self.left > down_to:
            assert await asyncio.wait_for(self._loop.sock_recv(self._client, 4096), 20)

    def look(self) -> bool:
        """Has the server look after it; whether the connection lives on."""
        self._loop.looks.pop()()
        return not self._transport.is_closing()

    @property
    def watched(self) -> bool:
        return bool(self._loop.looks)


def read_slowly(kind: str, read: Callable[[Reader], Awaitable[None]]) -> None:
    """Has ``read`` take an answer from uvicorn's protocol on one of its event loops."""

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 1_000_000})

    config = uvicorn.Config(app, loop=kind, log_config=None, access_log=False, ws="none", http=BoundedProtocol)
    config.load()

    async def ask() -> None:
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        loop = ByHand(asyncio.get_running_loop())
        make = partial(BoundedProtocol, config=config, server_state=ServerState(), app_state={})
        transport, protocol = await loop.connect_accepted_socket(make, theirs)
        protocol.loop = loop
        with ours:
            await loop.sock_sendall(ours, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            reader = Reader(loop, transport, ours)
            while not reader.watched:
                await asyncio.sleep(0.001)
            await read(reader)
            transport.abort()
            await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(ask())


LOOPS = pytest.mark.parametrize("kind", ["auto", "asyncio"])


@LOOPS
def test_a_client_that_takes_some_of_its_answer_has_time(kind: str) -> None:
    async def read(reader: Reader) -> None:
        await reader.take(reader.left - 1)
        assert reader.look()
        await reader.take(reader.left - 1)
        assert reader.look()
        # And is cut off where it has taken nothing since.
        assert not reader.look()

    read_slowly(kind, read)


@LOOPS
def test_a_client_that_takes_little_has_no_time_without_end(kind: str) -> None:
    async def read(reader: Reader) -> None:
        lived = []
        for _ in range(BACKLOG_LOOKS):
            await reader.take(reader.left - 1)
            lived.append(reader.look())
        assert lived == [True] * (BACKLOG_LOOKS - 1) + [False]

    read_slowly(kind, read)


@LOOPS
def test_a_client_that_takes_all_is_watched_no_longer(kind: str) -> None:
    async def read(reader: Reader) -> None:
        await reader.take(0)
        await asyncio.sleep(0.01)
        assert not reader.watched

    read_slowly(kind, read)


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_a_client_that_hangs_up_is_not_judged(live: Any, connect: Any, guard: Any) -> None:
    server = live()
    wait_for(lambda: server.app.state.server.ready)
    guard.batches.clear()
    guard.gate.clear()
    first = connect(server.port).send(length(len(GOOD)) + GOOD)
    wait_for(lambda: guard.asked)
    batcher = server.app.state.server.pool.default.batcher
    gone = connect(server.port)
    body = b'{"input": "gone"}'
    gone.send(length(len(body)) + body)
    wait_for(lambda: batcher._waiting)
    gone.socket.close()
    wait_for(lambda: not batcher._waiting)
    guard.gate.set()
    assert first.answer()[0] == 200
    assert guard.asked == ["good"]
    wait_for(lambda: 'route="/v1/moderations",status="499"} 1.0' in server.app.state.metrics.render()[0].decode())


def test_pipelined_requests_are_all_answered(live: Any, connect: Any) -> None:
    client = connect(live().port).send((length(len(GOOD)) + GOOD) * 3)
    reader = client.socket.makefile("rb")
    for _ in range(3):
        assert b"200" in reader.readline()
        size = 0
        while line := reader.readline().strip():
            if line.lower().startswith(b"content-length"):
                size = int(line.split()[1])
        reader.read(size)

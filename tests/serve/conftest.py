"""A guard that does what a test says, applications around it, and a real server in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError
from libra_guard.guards.base import Guard
from libra_guard.records import Conversation, Label, Target, Verdict
from libra_guard.serve.app import create_app
from libra_guard.serve.protocol import BoundedProtocol
from libra_guard.serve.settings import ServerSettings
from libra_guard.taxonomy import SYSTEMS

BAD = "【坏】"
"""A text that has it is unsafe: score 0.9, crime."""
DOUBTFUL = "【疑】"
"""Score 0.4."""
UNREADABLE = "【乱】"
FAILING = "【错】"
"""The model fails on it."""
CRIME = "Illegal Activities and Crime"


class FakeGuard(Guard):
    """Goes by markers in the text that is judged; keeps what it was asked.

    ``gate``: cleared, it holds every call until it is set again; ``entered`` is set when a call has begun.
    """

    name = "fake"
    gives_scores = True
    system = SYSTEMS["libra"]

    def __init__(self, *, targets: Sequence[Target] = tuple(Target), threshold: float = 0.5) -> None:
        super().__init__(ScriptedBackend(logits=[]), threshold=threshold)
        self.targets = frozenset(targets)
        self.batches: list[list[str]] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    @property
    def asked(self) -> list[str]:
        """Every text that was judged, in order; those of the warm-up too."""
        return [text for batch in self.batches for text in batch]

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        texts = [c.messages[-1].content for c in conversations]
        self.batches.append(texts)
        self.entered.set()
        assert self.gate.wait(20)
        if any(FAILING in text for text in texts):
            raise BackendError("the script says so")
        return [self._verdict(text, c.target) for text, c in zip(texts, conversations, strict=True)]

    def _verdict(self, text: str, target: Target) -> Verdict:
        if UNREADABLE in text:
            return Verdict(label=None, valid=False)
        score = 0.9 if BAD in text else 0.4 if DOUBTFUL in text else 0.1
        scores = {CRIME: score, "Hate Speech and Abuse": 0.05}
        return Verdict(label=self._label(score, target), unsafe_score=score, categories=scores)

    def _explain(self, conversations: Sequence[Conversation], verdicts: list[Verdict]) -> list[Verdict]:
        return [v.model_copy(update={"analysis": "因为"}) if v.label is Label.UNSAFE else v for v in verdicts]


MakeServer = Callable[..., TestClient]


def make_settings(**settings: Any) -> ServerSettings:
    return ServerSettings(**settings)


@pytest.fixture(scope="session")
def shared() -> Iterator[tuple[FakeGuard, TestClient]]:
    """One guard for all tests, and one server with default settings: what most tests need, made once."""
    guard = FakeGuard()
    with running(create_app(make_settings(), {"fake": guard})) as client:
        yield guard, client


@contextmanager
def running(app: FastAPI) -> Iterator[TestClient]:
    """A client of an application that is warm."""
    with TestClient(app, base_url="http://127.0.0.1:8300", raise_server_exceptions=False) as client:
        while not app.state.server.ready:
            time.sleep(0.001)
        yield client


@pytest.fixture
def guard(shared: tuple[FakeGuard, TestClient]) -> FakeGuard:
    """As new for each test."""
    shared[0].__dict__.clear()
    shared[0].__dict__.update(FakeGuard().__dict__)
    return shared[0]


@pytest.fixture
def make_server(guard: FakeGuard) -> Iterator[MakeServer]:
    """``make_server(**settings)`` → a client of an application that runs, warm, with ``guard``.

    ``guards=`` takes others, by name. What a route raises unforeseen is its answer (500), not the test's error.
    """
    with ExitStack() as stack:

        def make(guards: dict[str, Guard] | None = None, **settings: Any) -> TestClient:
            served = {"fake": guard} if guards is None else guards
            app = create_app(make_settings(**settings), served)
            client = stack.enter_context(running(app))
            # A test that failed in between must not leave the guard waiting.
            stack.callback(guard.gate.set)
            for one in served.values():
                if isinstance(one, FakeGuard):
                    one.batches.clear()
                    one.entered.clear()
            return client

        yield make


@pytest.fixture
def client(shared: tuple[FakeGuard, TestClient], guard: FakeGuard) -> Iterator[TestClient]:
    """A client of a server with default settings, on which others have counted already."""
    yield shared[1]
    guard.gate.set()
    shared[1].app.state.server.ready = True  # type: ignore[attr-defined]


class Live:
    """A real server on a free port."""

    def __init__(self, app: FastAPI, server: uvicorn.Server, port: int) -> None:
        self.app, self.server, self.port = app, server, port
        self.url = f"http://127.0.0.1:{port}"


@contextmanager
def live_server(app: FastAPI, **options: Any) -> Iterator[Live]:
    """Serves an application with uvicorn in a thread until the block ends."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, ws="none", http=BoundedProtocol, timeout_graceful_shutdown=5, **options
    )
    server = uvicorn.Server(config)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            # On the event loop that it chooses in production too.
            server.run([listening])
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.005)
        assert server.started, failed
        yield Live(app, server, listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture
def live(guard: FakeGuard) -> Iterator[Callable[..., Live]]:
    """``live(**settings)`` → a real server with ``guard``; ``guards=`` takes others, by name."""
    with ExitStack() as stack:

        def start(guards: dict[str, Guard] | None = None, **settings: Any) -> Live:
            served = {"fake": guard} if guards is None else guards
            server = stack.enter_context(live_server(create_app(make_settings(**settings), served)))
            # A test that failed in between must not leave the guard waiting.
            stack.callback(guard.gate.set)
            return server

        yield start

"""The application as a whole: under load, when it starts, and when it is stopped."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from libra_guard.errors import BackendError, UsageError
from libra_guard.serve.app import create_app, worker_app
from libra_guard.serve.settings import ServerSettings

BODY = {"input": "good"}


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def ready(server: Any) -> Any:
    wait_for(lambda: server.app.state.server.ready)
    return server


def test_more_than_the_queue_holds_is_told_to_come_back(live: Any, guard: Any) -> None:
    server = ready(live(queue_size=3, max_conversations=3))
    guard.batches.clear()
    guard.gate.clear()

    async def burst() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(timeout=20) as client:
            ask = [asyncio.create_task(client.post(f"{server.url}/v1/moderations", json=BODY))]
            while not guard.asked:
                await asyncio.sleep(0.002)
            ask += [asyncio.create_task(client.post(f"{server.url}/v1/moderations", json=BODY)) for _ in range(11)]
            while sum(task.done() for task in ask) < 8:
                await asyncio.sleep(0.002)
            guard.gate.set()
            return await asyncio.gather(*ask)

    answers = asyncio.run(burst())
    refused = [a for a in answers if a.status_code == 429]
    assert sorted(a.status_code for a in answers) == [200] * 4 + [429] * 8
    assert all(int(a.headers["retry-after"]) >= 1 for a in refused)
    assert refused[0].json()["error"]["type"] == "rate_limit_error"
    assert 'libra_rejected_total{reason="queue_full"} 8.0' in server.app.state.metrics.render()[0].decode()


def test_what_takes_too_long_is_504(live: Any, guard: Any) -> None:
    server = ready(live(deadline_ms=30))
    guard.gate.clear()
    answer = httpx2.post(f"{server.url}/v1/moderations", json=BODY, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
    guard.gate.set()
    assert httpx2.post(f"{server.url}/v1/moderations", json=BODY, timeout=20).status_code in (200, 504)


def test_stopping_finishes_what_is_in_flight(live: Any, guard: Any) -> None:
    server = ready(live(grace_seconds=10))
    guard.batches.clear()
    guard.gate.clear()

    async def stop() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(timeout=20) as client:
            ask = [asyncio.create_task(client.post(f"{server.url}/v1/moderations", json=BODY)) for _ in range(5)]
            batcher = server.app.state.server.pool.default.batcher
            while len(guard.asked) + len(batcher._waiting) < 5:
                await asyncio.sleep(0.002)
            server.server.should_exit = True
            await asyncio.sleep(0.05)
            guard.gate.set()
            return await asyncio.gather(*ask)

    assert [a.status_code for a in asyncio.run(stop())] == [200] * 5
    wait_for(lambda: not server.app.state.server.ready)


def test_it_is_ready_when_the_guards_are_warm(live: Any, guard: Any) -> None:
    guard.gate.clear()
    server = live()
    assert httpx2.get(f"{server.url}/readyz").status_code == 503
    assert httpx2.get(f"{server.url}/healthz").status_code == 200
    guard.gate.set()
    ready(server)
    assert httpx2.get(f"{server.url}/readyz").status_code == 200
    lengths = {len(text) for text in guard.asked}
    assert min(lengths) < 20 < 500 < max(lengths)


def test_a_guard_that_fails_is_never_ready(live: Any, guard: Any, monkeypatch: Any, caplog: Any) -> None:
    def fail(_: Any) -> Any:
        raise BackendError("broken")

    monkeypatch.setattr(guard, "_judge", fail)
    server = live()
    wait_for(lambda: "is not ready and will not be" in caplog.text)
    assert httpx2.get(f"{server.url}/readyz").status_code == 503


def test_a_policy_is_taken_up_while_it_runs(live: Any, tmp_path: Any, caplog: Any, monkeypatch: Any) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("libra_guard.serve.app._LOOK_SECONDS", 0.01)
    file = tmp_path / "own.yaml"
    file.write_text("extends: default\n", encoding="utf-8")
    server = ready(live(policies=(file,), policy="own"))

    def mode() -> Any:
        return {p["id"]: p for p in httpx2.get(f"{server.url}/v1/policies").json()["data"]}["own"]

    assert mode()["mode"] == "enforce"
    file.write_text("extends: default\nmode: monitor\n", encoding="utf-8")
    wait_for(lambda: mode()["mode"] == "monitor")
    file.write_text("extends: default\nmode: sleep\n", encoding="utf-8")
    wait_for(lambda: mode()["problem"])
    assert mode()["mode"] == "monitor"
    assert "policy own: its file has changed and is in force" in caplog.text
    assert "the one of before is in force: " in caplog.text
    wait_for(lambda: "libra_policy_problems 1.0" in server.app.state.metrics.render()[0].decode())


def test_a_look_at_the_policies_that_fails_is_told_and_not_the_last(live: Any, caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("libra_guard.serve.app._LOOK_SECONDS", 0.01)
    looks: list[int] = []

    def look(_: Any) -> None:
        looks.append(1)
        if len(looks) == 2:
            raise MemoryError

    monkeypatch.setattr("libra_guard.policy.watch.PolicyStore.refresh", look)
    live()
    wait_for(lambda: len(looks) > 3)
    assert caplog.text.count("the policy files cannot be looked at") == 1


def test_a_request_of_more_characters_than_ever_wait_is_400(make_server: Any) -> None:
    client = make_server(max_chars=5000, queue_chars=10_000)
    answer = client.post("/v1/moderations", json={"input": ["a" * 5000, "b" * 5000, "c"]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "10001 characters are too many at once; 10000 are taken" in error["message"]
    assert error["code"] == "too_much"
    assert client.post("/v1/moderations", json={"input": ["a" * 5000, "b" * 5000]}).status_code == 200


@pytest.mark.parametrize("guards", [("mini:/none",), ("words:/none",)])
def test_what_cannot_start_says_so_in_one_line(guards: tuple[str, ...], caplog: Any) -> None:
    sent: list[Any] = []

    async def start() -> None:
        app = create_app(ServerSettings(guards=guards))
        received = iter([{"type": "lifespan.startup"}])

        async def receive() -> Any:
            return next(received)

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "lifespan", "state": {}}, receive, send)

    with pytest.raises(UsageError, match="/none"):
        asyncio.run(start())
    assert sent == [{"type": "lifespan.startup.failed", "message": ""}]
    assert [r.getMessage() for r in caplog.records if r.levelname == "CRITICAL"]
    assert "/none" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_worker_has_the_settings_of_the_command(monkeypatch: Any, tmp_path: Any) -> None:
    given = ServerSettings(
        api_key="k", upstream="http://127.0.0.1:1/v1/", upstream_key="u", max_chars=7, audit=tmp_path / "a"
    )
    monkeypatch.setenv("LIBRA_SERVE_MAX_CHARS", "9")
    # As spawned processes are given their arguments.
    settings = pickle.loads(pickle.dumps(given))
    assert settings == given
    assert settings.upstream_key.get_secret_value() == "u"
    monkeypatch.setattr("libra_guard.serve.logs.set_up", lambda **_: None)
    assert worker_app(settings).title == "Libra"

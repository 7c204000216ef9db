"""What stands in the log, and what does not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from libra_guard.serve.logs import JsonFormatter, set_up

SECRET = "【错】张三的身份证"


@pytest.fixture
def logged(capfd: Any) -> Iterator[Any]:
    """``logged()`` → the lines of the log so far, as objects; ``logged(text=True)`` first, to log messages too."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in ("uvicorn.access", "httpx2", "httpcore2")}

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capfd.readouterr().err.splitlines()]

    yield lines
    logging.getLogger("uvicorn.error").filters.clear()
    root.handlers, root.level = before, level
    for name, old in quiet.items():
        logging.getLogger(name).setLevel(old)


def access(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["message"] == "request"]


def test_a_line_a_request(make_server: Any, logged: Any) -> None:
    client = make_server()
    set_up()
    answer = client.post("/v1/moderations?secret=1", json={"input": SECRET})
    client.get("/nothing/here")
    client.get("/healthz")
    first, second = access(logged())
    assert first["request_id"] == answer.headers["x-request-id"]
    assert {k: first[k] for k in ("level", "method", "path", "status")} == {
        **{"level": "info", "method": "POST", "path": "/v1/moderations", "status": 502}
    }
    assert first["ms"] >= 0
    assert first["time"].endswith("+00:00")
    assert (second["path"], second["status"]) == ("/nothing/here", 404)


def test_probes_are_logged_where_they_fail(make_server: Any, logged: Any) -> None:
    client = make_server()
    set_up()
    client.app.state.server.ready = False
    client.get("/readyz")
    assert [line["status"] for line in access(logged())] == [503]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3", True), ("a" * 100, True), ("a" * 101, False), ("a b", False), ('a"b', False), ("", False)],
)
def test_request_ids(client: Any, given: str, kept: bool) -> None:
    names = [client.get("/healthz", headers={"x-request-id": given}).headers.get_list("x-request-id") for _ in range(2)]
    assert (names[0] == names[1] == [given]) == kept
    assert len(names[0]) == 1
    assert names[0][0]


class Unforeseen(Exception):
    """A bug."""


@pytest.fixture
def broken(make_server: Any, monkeypatch: Any) -> Any:
    """A server with a bug that quotes the user."""

    def make(**settings: Any) -> Any:
        client = make_server(**settings)

        async def fail(*_: Any, **__: Any) -> Any:
            raise Unforeseen(f"cannot do with {SECRET}")

        monkeypatch.setattr(client.app.state.server, "decide_all", fail)
        return client

    return make


@pytest.mark.parametrize("text", [False, True])
def test_what_nobody_foresaw_is_500_and_logged_without_the_text(broken: Any, logged: Any, text: bool) -> None:
    client = broken()
    set_up(text=text)
    answer = client.post("/v1/moderations", json={"input": SECRET})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert SECRET not in answer.text
    lines = logged()
    (error,) = [line for line in lines if line["level"] == "error"]
    assert error["error"] == "Unforeseen"
    assert any("test_logs.py" in frame for frame in error["at"])
    assert error["request_id"] == answer.headers["x-request-id"]
    assert (SECRET in json.dumps(lines, ensure_ascii=False)) == text
    assert [line["status"] for line in access(lines)] == [500]
    # And goes on.
    assert client.get("/v1/guards").status_code == 200


def test_no_line_holds_a_text(make_server: Any, logged: Any) -> None:
    client = make_server()
    set_up()
    for body in (
        {"input": SECRET},
        {"input": [SECRET, ""]},
        {"input": {SECRET: SECRET}},
        {SECRET: 1},
        {"input": "【坏】" + SECRET[3:]},
    ):
        client.post("/v1/moderations", json=body)
        client.post("/v1/guard", json={"conversation": body, "policy": SECRET})
    client.post("/v1/moderations", content=SECRET.encode(), headers={"content-type": "application/json"})
    assert "张三" not in json.dumps(logged(), ensure_ascii=False)


def test_the_http_servers_logs_have_the_same_form(logged: Any) -> None:
    set_up()
    logging.getLogger("uvicorn.error").warning("Started %d", 5)
    logging.getLogger("uvicorn.access").info("127.0.0.1 - GET /?q=secret")
    (line,) = logged()
    assert (line["logger"], line["message"]) == ("uvicorn.error", "Started 5")


def test_odd_records_are_lines_too() -> None:
    record = logging.makeLogRecord({"name": "x", "msg": "a\nb \ud800", "levelname": "ERROR", "levelno": 40})
    line = JsonFormatter().format(record)
    assert "\n" not in line
    line.encode()
    assert json.loads(line)["level"] == "error"


def test_the_steps_of_the_http_server_are_no_news(logged: Any) -> None:
    set_up()
    server = logging.getLogger("uvicorn.error")
    server.info("Started server process [%d]", 7)
    server.info("Waiting for application shutdown.")
    server.info("Child process [%d] died", 7)
    server.info("Waiting for connections to close. (CTRL+C to force quit)")
    server.error("Exception in 'lifespan' protocol")
    assert [line["message"][:12] for line in logged()] == ["Child proces", "Waiting for ", "Exception in"]

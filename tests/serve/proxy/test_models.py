"""The models of an upstream."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import openai
from starlette.testclient import TestClient


def test_models(live: Any, upstream: Any, script: Any) -> None:
    body = b'{"object":"list",  "data":[{"id":"org/m","object":"model","created":1,"owned_by":"o"}]}'
    one = b'{"id":"org/m","object":"model","created":1,"owned_by":"o"}'
    upstream.reply = lambda asked: script.Reply(
        headers={"content-type": "application/json"}, body=body if asked.path == "/v1/models" else one
    )
    server = live(upstream=upstream.url)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="sk-user", max_retries=0)
    assert [model.id for model in client.models.list()] == ["org/m"]
    assert client.models.retrieve("org/m").id == "org/m"
    assert [(asked.method, asked.path) for asked in upstream.arrived] == [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/org/m"),
    ]


def test_without_an_upstream_the_guards_are_the_models(live: Any, guard: Any) -> None:
    before = int(time.time())
    server = live(guards={"fake": guard, "org/other": type(guard)()})
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    listed = list(client.models.list())
    assert [model.id for model in listed] == ["fake", "org/other"]
    one = client.models.retrieve("org/other")
    assert one == listed[1]
    assert (one.object, one.owned_by) == ("model", "libra-guard")
    assert before <= one.created <= time.time()
    assert client.moderations.create(input="good", model=listed[0].id).results
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_models_are_no_page(proxy: TestClient, upstream: Any, script: Any) -> None:
    page = b"<script>alert(1)</script>"
    upstream.reply = lambda _: script.Reply(200, {"content-type": "text/html"}, page)
    assert proxy.get("/v1/models").json()["error"]["code"] == "upstream_garbage"
    upstream.reply = lambda _: script.Reply(404, {"content-type": "text/html"}, page)
    missing = proxy.get("/v1/models/m")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "upstream_status")
    upstream.reply = lambda _: script.Reply(200, {"content-type": "text/html"}, b'{"data": []}')
    for answer in (missing, proxy.get("/v1/models")):
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "script" not in answer.text


@pytest.mark.parametrize("path", ["%2e%2e/admin", "a/%2e%2e/%2e%2e/admin", "a//b", "%2e"])
def test_a_model_is_no_way_elsewhere(proxy: TestClient, upstream: Any, path: str) -> None:
    assert proxy.get(f"/v1/models/{path}").status_code == 404
    assert upstream.arrived == []


def test_a_name_stays_a_name(proxy: TestClient, upstream: Any, script: Any) -> None:
    upstream.reply = lambda _: script.Reply(404, {"content-type": "application/json"}, b'{"error": {"message": "no"}}')
    answer = proxy.get("/v1/models/a%3Fb%23%20%E4%BD%A0")
    assert (answer.status_code, answer.json()) == (404, {"error": {"message": "no"}})
    assert upstream.arrived[0].path == "/v1/models/a%3Fb%23%20%E4%BD%A0"

"""What is served, and how the server is."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from libra_guard.errors import UsageError
from libra_guard.records import Target


def test_guards(make_server: Any, guard: Any) -> None:
    other = type(guard)(targets=[Target.RESPONSE], threshold=0.7)
    other.gives_scores, other.system = False, None
    body = make_server(guards={"fake": guard, "other": other}, max_chars=5000).get("/v1/guards").json()
    first, second = body["data"]
    assert (first["id"], first["default"], first["targets"]) == ("fake", True, ["prompt", "response"])
    assert first["thresholds"] == {"prompt": 0.5, "response": 0.5}
    assert len(first["categories"]) == 7
    assert first["categories"][0]["name_zh"] == "违法犯罪"
    assert (second["id"], second["default"], second["targets"]) == ("other", False, ["response"])
    assert (second["thresholds"], second["categories"]) == (None, [])
    del body["object"], body["data"]
    limits = {"max_conversations": 100, "max_messages": 200, "max_chars": 5000}
    assert body == {**limits, "queue_chars": 1_000_000, "max_body_bytes": 1_000_000}


def test_policies_and_their_problems(make_server: Any, tmp_path: Any) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("extends: default\nmode: monitor\n", encoding="utf-8")
    client = make_server(policies=(file,), policy="own")
    told = {one["id"]: one for one in client.get("/v1/policies").json()["data"]}
    assert set(told) == {"default", "strict", "monitor", "own"}
    assert (told["own"]["default"], told["own"]["mode"], told["own"]["problem"]) == (True, "monitor", None)
    assert not told["default"]["default"]


def test_health_and_readiness(client: TestClient) -> None:
    assert client.get("/healthz").json()["status"] == "alive"
    assert client.get("/readyz").json()["status"] == "ready"
    client.app.state.server.ready = False  # type: ignore[attr-defined]
    answer = client.get("/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_without_a_body_and_of_a_guard_whose_thread_has_ended(client: TestClient, path: str) -> None:
    assert (client.head(path).status_code, client.head(path).content) == (200, b"")
    batcher = client.app.state.server.pool.default.batcher  # type: ignore[attr-defined]
    batcher._dead = True
    try:
        assert [client.get(path).status_code, client.head(path).status_code] == [503, 503]
    finally:
        batcher._dead = False


def test_metrics(client: TestClient) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "libra_build_info" in answer.text


def test_a_policy_for_a_guard_that_is_not_served(make_server: Any, tmp_path: Any) -> None:
    (tmp_path / "own.yaml").write_text("extends: default\nguard: big\n", encoding="utf-8")
    with pytest.raises(UsageError, match="'own' asks for the guard 'big'; served: fake"):
        make_server(policies=(tmp_path / "own.yaml",))


def test_the_description_can_be_switched_off(make_server: Any) -> None:
    client = make_server(docs=False)
    assert [client.get(path).status_code for path in ("/docs", "/openapi.json")] == [404, 404]


def test_the_page_of_the_api_asks_nobody_else(client: TestClient) -> None:
    answer = client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert set(re.findall(r'(?:src|href)="([^"]*)"', answer.text)) == {"web/icon.svg", "web/style.css", "openapi.json"}
    assert "<script" not in answer.text
    told = client.get("/openapi.json").json()["paths"]
    shown = re.findall(r"<h3><code>(\w+) (\S+)</code></h3>\n<p>\w", answer.text)
    assert shown == [(method.upper(), path) for path, methods in told.items() for method in methods]


def test_the_description_names_what_is_there(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    assert {"/v1/moderations", "/v1/guard", "/v1/guards", "/v1/policies", "/healthz", "/readyz", "/metrics"} <= set(
        told["paths"]
    )
    answers = told["paths"]["/v1/guard"]["post"]["responses"]
    assert {"200", "400", "404", "413", "415", "429", "502", "503", "504"} <= set(answers)
    # FastAPI's own error is not one of ours.
    assert "422" not in answers
    assert "HTTPValidationError" not in told["components"]["schemas"]

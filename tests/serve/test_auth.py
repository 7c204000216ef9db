"""Keys, and the names that a server goes by."""

from __future__ import annotations

import hmac
from typing import Any

import pytest

from libra_guard.errors import UsageError

KEY = "geheim-$ecret~"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer wrong", 401),
        ("Bearer right2", 401),
        ("Bearer righ", 401),
        ("Basic right", 401),
        ("right", 401),
        ("Bearer right right", 401),
        ("Bearer # a note", 401),
        ("Bearer right", 200),
        ("bearer  right ", 200),
        ("Bearer other", 200),
        ("Bearer alone", 200),
        (f"Bearer {KEY}", 200),
        (b"Bearer \xff\xfe", 401),
    ],
)
def test_keys(make_server: Any, guard: Any, tmp_path: Any, header: Any, status: int) -> None:
    (tmp_path / "keys").write_text(f"# a note\n\n other \n{KEY}\nright\n", encoding="utf-8")
    client = make_server(api_key="alone", api_key_file=tmp_path / "keys")
    answer = client.post(
        "/v1/moderations", json={"input": "a"}, headers={} if header is None else {"authorization": header}
    )
    assert answer.status_code == status
    assert len(guard.asked) == (status == 200)
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert 'libra_rejected_total{reason="key"} 1.0' in client.app.state.metrics.render()[0].decode()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *[(path, 200) for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/web/style.css")],
        *[
            (path, 401)
            for path in ("/metrics", "/v1/guards", "/v1/policies", "/v1/models", "/nothing", "/healthz/x", "//", "/web")
        ],
    ],
)
def test_what_is_open(make_server: Any, path: str, status: int) -> None:
    assert make_server(api_key="right").get(f"http://127.0.0.1{path}").status_code == status


def test_every_key_is_compared_whole(make_server: Any, tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "keys").write_text("a\nb\nc\n")
    client = make_server(api_key_file=tmp_path / "keys")
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def noting(one: Any, other: Any) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    for key in ("a", "c", "wrong" * 100):
        client.get("/v1/guards", headers={"authorization": f"Bearer {key}"})
    # Neither the place of the right one nor its length can be told by the time.
    assert compared == [(32, 32)] * 9


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"api_key_file": "missing"}, "missing"),
        ({"api_key_file": "."}, "cannot be read"),
        ({"api_key_file": "blank"}, "no API key in it"),
        ({"api_key_file": "latin"}, "not UTF-8"),
        ({"api_key_file": "chinese"}, "chinese, line 3: the key holds what no header can"),
    ],
)
def test_keys_that_are_none(make_server: Any, tmp_path: Any, monkeypatch: Any, settings: Any, told: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blank").write_text("\n# nothing\n")
    (tmp_path / "chinese").write_text("# 注\nright\n密钥\n", encoding="utf-8")
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xff")
    # No key is not an open door.
    with pytest.raises(UsageError, match=told):
        make_server(**settings)


@pytest.mark.parametrize(
    ("host", "settings", "status"),
    [
        ("127.0.0.1:8300", {}, 200),
        ("localhost", {}, 200),
        ("LocalHost:1", {}, 200),
        ("[::1]:8300", {}, 200),
        ("evil.example", {}, 400),
        ("localhost.evil.example", {}, 400),
        ("evil.example:8300", {}, 400),
        ("[::1].evil.example", {}, 400),
        ("libra.internal", {"hosts": ("Libra.internal",)}, 200),
        # A key, or being reachable anyway, make the name a matter of no weight.
        ("evil.example", {"api_key": "right"}, 200),
        ("evil.example", {"host": "0.0.0.0"}, 200),
        ("evil.example", {"host": "127.0.0.2"}, 400),
        ("127.0.0.2:8300", {"host": "127.0.0.2"}, 200),
    ],
)
def test_names_of_the_server(make_server: Any, host: str, settings: Any, status: int) -> None:
    client = make_server(**settings)
    answer = client.get("/v1/guards", headers={"host": host, "authorization": "Bearer right"})
    assert answer.status_code == status


@pytest.mark.parametrize("origin", ["https://page.example", "null"])
def test_cors_is_off(make_server: Any, origin: str) -> None:
    client = make_server()
    ask = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    answer = client.options("/v1/guard", headers=ask)
    assert answer.status_code == 405
    answer = client.post("/v1/moderations", json={"input": "a"}, headers={"origin": origin})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_cors_for_one_page(make_server: Any) -> None:
    client = make_server(cors_origins=("https://page.example",), api_key="right")
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    assert client.options("/v1/guard", headers={**ask, "origin": "https://page.example"}).status_code == 200
    refused = client.options("/v1/guard", headers={**ask, "origin": "https://other.example"})
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/json")
    assert refused.json()["error"]["code"] == "cors_refused"
    assert refused.json()["error"]["message"].startswith("Disallowed CORS origin; LIBRA_SERVE_CORS_ORIGINS names")
    assert "access-control-allow-origin" not in refused.headers
    assert refused.headers["vary"].startswith("Origin")
    # That a key is missing can be read by the page.
    answer = client.post("/v1/guard", json={}, headers={"origin": "https://page.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, "https://page.example")
    told = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-libra-action", "x-libra-would"} <= set(told)

"""What the server is told."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from libra_guard.errors import UsageError
from libra_guard.predict.stream import StreamSettings
from libra_guard.serve.settings import ServerSettings, public_name, read_settings


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"port": 70000}, "port (LIBRA_SERVE_PORT): "),
        ({"port": "x"}, "LIBRA_SERVE_PORT"),
        ({"workers": 0}, "LIBRA_SERVE_WORKERS"),
        ({"guards": ()}, "a guard is needed"),
        ({"guards": ("mini", "mini:/a")}, "two guards are called 'mini'"),
        ({"queue_size": 10}, "queue_size must be max_conversations or more"),
        ({"queue_chars": 39_999}, "queue_chars must be twice max_chars or more"),
        ({"max_conversations": 20_000, "queue_size": 30_000}, "LIBRA_SERVE_MAX_CONVERSATIONS"),
        ({"upstream": "example.org/v1"}, "http://"),
        ({"upstream": "https://example.org/v1?api-version=2"}, "it has a query"),
        ({"upstream": "https://example.org/v1#x"}, "it has a query or a fragment"),
        ({"deadline_ms": 0}, "LIBRA_SERVE_DEADLINE_MS"),
        ({"batch_wait_ms": -1}, "LIBRA_SERVE_BATCH_WAIT_MS"),
        ({"batch_wait_ms": float("nan")}, "LIBRA_SERVE_BATCH_WAIT_MS"),
        ({"stream_overlap": 300}, "stream_overlap is 300"),
        ({"stream_hold_chars": 100}, "stream_overlap is 60; it may be a quarter of stream_hold_chars at most"),
        ({"stream_hold_chars": 100}, "(LIBRA_SERVE_STREAM_OVERLAP, LIBRA_SERVE_STREAM_HOLD_CHARS)"),
        ({"queue_size": 10}, "(LIBRA_SERVE_QUEUE_SIZE, LIBRA_SERVE_MAX_CONVERSATIONS)"),
        ({"cors_origins": "shop.example"}, "'shop.example' is no origin, such as https://shop.example"),
        ({"cors_origins": "https://shop.example/app"}, "'https://shop.example/app' is no origin"),
        ({"cors_origins": "https://a.example,https://商店.example"}, "LIBRA_SERVE_CORS_ORIGINS"),
        ({"cors_origins": "https://*.shop.example"}, "is no origin"),
        ({"cors_origins": "https://"}, "is no origin"),
        ({"stream_hold_chars": 1}, "stream_hold_chars: "),
        ({"stream_doubt": 2}, "stream_doubt: "),
        ({"stream_work": 1}, "stream_work: "),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings(**given)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_secret_is_in_no_message(monkeypatch: Any) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings(api_key=["geheim"])
    assert "geheim" not in str(caught.value)
    assert "geheim" not in repr(ServerSettings(api_key="geheim", audit_key="geheim", upstream_key="geheim"))


@pytest.mark.parametrize("name", ["API_KEY", "UPSTREAM_KEY"])
@pytest.mark.parametrize(
    ("key", "told"),
    [("", "empty"), (" \n", "empty"), ("ge\nheim", "no header can"), ("geheim\x7f", "no header"), ("密", "no header")],
)
def test_a_key_that_no_header_holds(monkeypatch: Any, name: str, key: str, told: str) -> None:
    monkeypatch.setenv(f"LIBRA_SERVE_{name}", key)
    with pytest.raises(UsageError, match=told) as caught:
        read_settings()
    assert str(caught.value).startswith(f"{name.lower()} (LIBRA_SERVE_{name}): the key ")
    assert "heim" not in str(caught.value)
    assert "密" not in str(caught.value)


def test_the_line_end_of_a_key_is_none_of_it(monkeypatch: Any) -> None:
    """As from a Kubernetes secret that was made from a file."""
    monkeypatch.setenv("LIBRA_SERVE_API_KEY", " here\n")
    monkeypatch.setenv("LIBRA_SERVE_UPSTREAM_KEY", "there\r\n")
    found = read_settings()
    assert found.keys() == ("here",)
    assert found.upstream_key is not None
    assert found.upstream_key.get_secret_value() == "there"


def test_the_environment(monkeypatch: Any) -> None:
    monkeypatch.setenv("LIBRA_SERVE_GUARDS", "mini, big=libra:/models/guard")
    monkeypatch.setenv("LIBRA_SERVE_POLICIES", "a.yaml,b.yaml")
    monkeypatch.setenv("LIBRA_SERVE_CORS_ORIGINS", "https://a.example")
    monkeypatch.setenv("LIBRA_SERVE_API_KEY", "k")
    monkeypatch.setenv("LIBRA_SERVE_PORT", "9000")
    found = read_settings(port=9001)
    assert found.guards == ("mini", "big=libra:/models/guard")
    assert found.policies == (Path("a.yaml"), Path("b.yaml"))
    assert found.cors_origins == ("https://a.example",)
    assert (found.keys(), found.port) == (("k",), 9001)


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://shop.example/", "https://shop.example"),
        ("HTTPS://Shop.Example:443", "https://shop.example"),
        ("http://shop.example:80", "http://shop.example"),
        ("http://shop.example:443", "http://shop.example:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("*", "*"),
        ("null", "null"),
    ],
)
def test_origins_are_kept_as_browsers_name_them(given: str, origin: str) -> None:
    assert ServerSettings(cors_origins=given).cors_origins == (origin,)


def test_keys_that_are_said_only_once(tmp_path: Path) -> None:
    """As with ``--api-key-file <(pass show key)``."""
    file = tmp_path / "keys"
    os.mkfifo(file)
    writer = threading.Thread(target=file.write_text, args=("one\ntwo\n",), daemon=True)
    writer.start()
    settings = read_settings(api_key_file=file)
    assert settings.keys() == ("one", "two")
    writer.join(10)
    file.unlink()
    assert settings.keys() == ("one", "two")
    # A worker, too, has what was read.
    assert pickle.loads(pickle.dumps(settings)).keys() == ("one", "two")
    assert "two" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "told"), [("LIBRA_SERVE_POTR", "LIBRA_SERVE_PORT?"), ("LIBRA_SERVE_XYZQ", "no setting")]
)
def test_a_variable_that_nobody_reads(monkeypatch: Any, name: str, told: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(UsageError, match=name) as caught:
        read_settings()
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("mini", ("mini", "mini")),
        ("mini:/a=b", ("mini", "mini:/a=b")),
        ("libra:/models/x", ("libra", "libra:/models/x")),
        ("big=libra:/models/a=b:c", ("big", "libra:/models/a=b:c")),
    ],
)
def test_public_names(spec: str, name: tuple[str, str]) -> None:
    assert public_name(spec) == name


def test_streams() -> None:
    assert ServerSettings().stream == StreamSettings()
    others = {
        "least": 5,
        "overlap": 10,
        "doubt": 0.5,
        "suspicion": 0.1,
        "hold_chars": 300,
        "hold_ms": 500.0,
        "work": 3.0,
    }
    given = {f"stream_{name}": value for name, value in others.items()}
    assert ServerSettings(**given).stream.model_dump() == others
    assert {name for name in ServerSettings.model_fields if name.startswith("stream_")} == set(given)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("127.0.0.1", "127.0.0.2", "127.255.255.254", "localhost", "::1", "0:0:0::1")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "127.0.0.1.example.org", "")),
    ],
)
def test_local(host: str, local: bool) -> None:
    assert ServerSettings(host=host).is_local == local

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from libra_guard.backends.registry import BACKENDS
from libra_guard.cli import guards
from libra_guard.guards.registry import GUARDS

Call = Callable[..., Result]


def test_wrong_use(call: Call) -> None:
    done = call("guards", "mini")
    assert (done.exit_code, done.stdout) == (2, "")


def test_json(call: Call) -> None:
    done = call("guards", "--json")
    assert done.stderr == ""
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == list(GUARDS)
    for row in rows:
        entry = GUARDS[row["name"]]
        assert set(row) == {*entry.__dataclass_fields__, "ready", "runs_on"}
        assert {name: told["extra"] for name, told in row["runs_on"].items()} == {
            name: BACKENDS[name].extra for name in entry.backends
        }
        assert row["judges"] == list(entry.judges)
        assert set(row["backends"]) <= set(BACKENDS)
    assert {row["name"]: row["ready"] for row in rows}["mini"] is True


def test_table_names_every_guard_and_what_it_needs(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = call("guards").stdout
    assert "\x1b" not in told
    lines = {line.split()[0]: line for line in told.splitlines()}
    assert "mini[:MODEL]" in lines
    assert all(f"{name}:MODEL" in lines for name in GUARDS)
    assert lines["mini[:MODEL]"].rstrip().endswith("nothing more")


def test_every_backend_stands_with_its_extra(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(guards, "find_spec", lambda module: None if module == "anthropic" else object())
    told = [line.split() for line in call("guards").stdout.splitlines()]
    start = next(i for i, words in enumerate(told) if words[0] == "libra:MODEL")
    assert [" ".join(words) for words in told[start + 1 : start + 4]] == [
        "openai the extra api (installed)",
        "anthropic pip install 'libra-guard[api]'",
        "scripted nothing more",
    ]
    assert told[start][-5:] == ["transformers", "the", "extra", "hf", "(installed)"]


def test_a_missing_extra_is_named_whole(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Square brackets are markup to the library that prints the table."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(guards, "find_spec", lambda module: None if module == "torch" else object())
    assert "pip install 'libra-guard[hf]'" in call("guards").stdout
    ready = {row["name"]: row["ready"] for row in json.loads(call("guards", "--json").stdout)}
    assert ready == {"mini": True, "libra": False, "ngram": True}
    (libra,) = (row for row in json.loads(call("guards", "--json").stdout) if row["name"] == "libra")
    assert {name: told["ready"] for name, told in libra["runs_on"].items()} == {
        "transformers": False,
        "openai": True,
        "anthropic": True,
        "scripted": True,
    }

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


def test_table_names_every_guard_and_what_it_is(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = call("guards").stdout
    assert "\x1b" not in told
    rows = {line.split()[0]: line for line in told.partition("\n\n")[0].splitlines()[1:]}
    assert list(rows) == ["mini[:MODEL]", *(f"{name}:MODEL" for name in GUARDS if name != "mini")]
    assert rows["libra:MODEL"].split(maxsplit=1)[1].split("  ")[0] == "response"
    assert all(entry.summary in told and entry.model in told for entry in GUARDS.values())


def test_table_names_released_models_with_size_and_licence(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    blocks = dict(block.strip().split("\n", 1) for block in call("guards").stdout.split("\n\n")[1:] if "\n" in block)
    assert "  size: 2B, 9B, 27B\n  licence: Gemma Terms of Use" in blocks["shieldgemma:MODEL"]
    for entry in GUARDS.values():
        block = next(text for name, text in blocks.items() if name.startswith((f"{entry.name}:", f"{entry.name}[")))
        assert [line.split(": ")[0].strip() for line in block.splitlines()[2:]] == [
            name for name in ("hub", "size", "licence") if getattr(entry, name)
        ]
        assert ", ".join(entry.hub) in block


def test_a_narrow_table_breaks_lines_and_loses_nothing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    told = call("guards").stdout
    assert max(map(len, told.splitlines())) <= 60
    assert all(name in told for entry in GUARDS.values() for name in entry.hub)


def test_what_a_backend_needs_is_told_where_it_is_missing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(guards, "find_spec", lambda module: object())
    told = call("guards").stdout
    assert "*" not in told
    monkeypatch.setattr(guards, "find_spec", lambda module: None if module == "anthropic" else object())
    told = call("guards").stdout
    row = next(line for line in told.splitlines() if line.startswith("libra:MODEL"))
    assert "transformers, openai, anthropic*, scripted" in row
    assert "* needs: pip install 'libra-guard[api]'" in told


def test_what_the_bundled_guard_cannot_run_on_by_itself_is_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(guards, "find_spec", lambda module: object())
    row = next(line for line in call("guards").stdout.splitlines() if line.startswith("mini[:MODEL]"))
    assert "onnx, transformers with MODEL" in row
    rows = {row["name"]: row["runs_on"] for row in json.loads(call("guards", "--json").stdout)}
    assert {name: told["needs_model"] for name, told in rows["mini"].items()} == {"onnx": False, "transformers": True}
    assert all(told["needs_model"] for name, runs_on in rows.items() if name != "mini" for told in runs_on.values())


def test_ready_is_told_to_programs(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "find_spec", lambda module: None if module == "torch" else object())
    rows = {row["name"]: row for row in json.loads(call("guards", "--json").stdout)}
    assert {name: row["ready"] for name, row in rows.items()} == {
        name: entry.backends[0] != "transformers" for name, entry in GUARDS.items()
    }
    assert {name: told["ready"] for name, told in rows["libra"]["runs_on"].items()} == {
        "transformers": False,
        "openai": True,
        "anthropic": True,
        "scripted": True,
    }

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

from libra_guard.errors import UsageError
from libra_guard.policy import bundled_names, read_policy

Call = Callable[..., Result]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    def write(name: str, content: str) -> str:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_wrong_use(call: Call) -> None:
    for arguments in (("check",), ("check", "--nothing"), ("show", "default", "strict"), ("list", "x")):
        done = call("policy", *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
    with pytest.raises(UsageError, match="did you mean default"):
        raise call("policy", "show", "defaults").exception or AssertionError


def test_check(call: Call, write: Callable[[str, str], str]) -> None:
    good, odd = write("good.yaml", "mode: monitor\n"), write("odd.yaml", "unreadable: pass\n")
    bad, gone = write("bad.yaml", "mode: monitor\n\nmodes: x\n"), write("x", "") + "/gone.yaml"
    done = call("policy", "check", good)
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{good}: in order\n", "")
    done = call("policy", "check", good, odd)
    assert done.exit_code == 1
    assert f"warning: {odd}: line 1: unreadable: texts that no guard" in done.stdout
    done = call("policy", "check", bad, good, odd, gone)
    assert done.exit_code == 2
    lines = done.stdout.splitlines()
    assert lines[0] == f"error: {bad}: line 3: modes: there is no such key; did you mean mode?"
    assert lines[1] == f"{good}: in order"
    assert lines[2].startswith("warning: ")
    assert lines[3].startswith(f"error: {gone}: line 1: cannot be read")


def test_check_as_json(call: Call, write: Callable[[str, str], str]) -> None:
    odd, bad = write("odd.yaml", "unreadable: pass\n"), write("bad.yaml", "mode: monitor\nmodes: x\n")
    done = call("policy", "check", odd, bad, "--json")
    assert done.exit_code == 2
    first, second = json.loads(done.stdout)
    assert (first["name"], first["errors"], first["warnings"][0]["line"]) == ("odd", [], 1)
    told = {"file": bad, "line": 2, "where": "modes", "message": "there is no such key; did you mean mode?"}
    assert second == {"file": bad, "name": None, "errors": [told], "warnings": []}


def test_show(call: Call, write: Callable[[str, str], str]) -> None:
    for name in bundled_names():
        done = call("policy", "show", name)
        assert done.exit_code == 0
        again = read_policy(write(f"{name}.yaml", done.stdout)).policy
        assert again.name == name
        assert yaml.safe_load(done.stdout) == json.loads(call("policy", "show", name, "--json").stdout)
    assert yaml.safe_load(call("policy", "show").stdout)["name"] == "default"
    shown = call("policy", "show", write("shop.yaml", "answers: {default: {zh: 不行}}\n"), "--json").stdout
    answers = json.loads(shown)["answers"]
    assert answers["default"]["zh"] == "不行"
    assert "12356" in answers["default"]["en"]
    assert "12356" in answers["Physical and Mental Health"]["zh"]


def test_list(call: Call) -> None:
    lines = call("policy", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(bundled_names())
    rows = json.loads(call("policy", "list", "--json").stdout)
    assert [row["name"] for row in rows] == list(bundled_names())
    assert all(row["about"].endswith(".") and "#" not in row["about"] for row in rows)

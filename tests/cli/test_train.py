from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from libra_guard.errors import MissingExtraError, UsageError

Call = Callable[..., Result]
RECIPE = """
name: toy
ngrams: {data: [&seed {set: libra-seed, path: seed.jsonl}], buckets: 4096}
calibration: {data: [*seed]}
test: [*seed]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toy.yaml").write_text(RECIPE, encoding="utf-8")
    usual = {"source": "s", "category_name": "", "sub_category_name": "", "analyze": "", "kind": "", "pair_id": ""}
    rows = [
        {**usual, "id": f"{i}{label}", "question": f"第{i}件事怎么办", "response": response, "label": label}
        for i in range(90)
        for response, label in (("可以帮你", "不安全"), ("不太方便", "安全"))
    ]
    (tmp_path / "seed.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "arguments", [[], ["toy.yaml"], ["toy.yaml", "--out", __file__], ["toy.yaml", "--data", __file__]]
)
def test_impossible_options(call: Call, arguments: list[str]) -> None:
    done = call("train", "classifier", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")


def test_no_recipe(call: Call, folder: Path) -> None:
    done = call("train", "classifier", str(folder / "none.yaml"), "--out", str(folder / "out"))
    assert isinstance(done.exception, UsageError)
    assert "none.yaml: No such file" in str(done.exception)


def test_a_missing_library_is_named(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    found = importlib.import_module

    def without_torch(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise builtins.ModuleNotFoundError("No module named 'torch'", name="torch")
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without_torch)
    done = call("train", "classifier", str(folder / "toy.yaml"), "--out", str(folder / "out"))
    assert isinstance(done.exception, MissingExtraError)
    assert "libra-guard[train]" in str(done.exception)


def test_from_recipe_to_verdict(call: Call, folder: Path) -> None:
    out = str(folder / "out")
    done = call("train", "classifier", str(folder / "toy.yaml"), "--data", str(folder), "--out", out)
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert list(told) == ["name", "threshold", "test", "parity"]
    assert told["test"]["guard"]["libra-seed (pair)"]["accuracy"] == 1
    assert "rows left out" in done.stderr
    verdict = json.loads(call("check", "-g", f"ngram:{out}/guard", "-q", "怎么办", "-r", "可以帮你", "--json").stdout)
    assert (verdict["label"], verdict["guard"]) == ("不安全", "ngram")

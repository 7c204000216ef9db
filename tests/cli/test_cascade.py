"""libra cascade, from two runs to a cascade that judges as it was fitted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

from libra_guard import Conversation, load_guard
from libra_guard.errors import DataError, UsageError
from libra_guard.guards.cascade import CascadeGuard

Call = Callable[..., Result]
FAST = {f"{d}甲": d / 20 for d in range(20)}
"""A text of each score; the strong guard is right on all of them."""


def script(folder: Path, name: str, scores: dict[str, float]) -> None:
    choose = {text: [1 - score, score] for text, score in scores.items()}
    (folder / f"{name}.json").write_text(json.dumps({"choose": choose}), encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the runs of two guards over 60 rows, of which the fast guard misjudges those near a half."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    rows = []
    for i in range(60):
        d = i % 20
        unsafe = d >= 10 if abs(d - 9.5) > 2 else i % 2 == 0
        rows.append(
            {"id": i, "question": f"第{i}问", "response": f"{i}号{d}甲", "label": "不安全" if unsafe else "安全"}
        )
    (tmp_path / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    script(tmp_path / "models", "fast", {f"号{text}": score for text, score in FAST.items()})
    script(tmp_path / "models", "strong", {f"{r['id']}号": 0.9 if r["label"] == "不安全" else 0.2 for r in rows[::-1]})
    for name, guard in (("fast", "policy"), ("strong", "libra")):
        infer(call, monkeypatch, name, f"{guard}:models/{name}.json")
    return tmp_path


def infer(call: Call, monkeypatch: pytest.MonkeyPatch, name: str, guard: str, *more: str) -> None:
    arguments = ["infer", "--data", "rows.json", "--out", name, "--guard", guard, "--backend", "scripted", *more]
    # The record keeps the command of the process.
    monkeypatch.setattr("sys.argv", ["libra", *arguments])
    assert call(*arguments).exit_code == 0


def fitted(call: Call, *more: str, out: str = "cascade.yaml") -> Result:
    return call("cascade", "--fast", "fast", "--strong", "strong", "--labels", "rows.json", "--out", out, *more)


def rows(place: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((place / "rows.json").read_text(encoding="utf-8"))
    return found


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("options", [("--calls", "2"), ("--lose", "-1"), ("--calls", "x")])
def test_wrong_use(place: Path, call: Call, options: tuple[str, str]) -> None:
    done = fitted(call, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert options[0] in done.stderr


def test_a_goal_that_cannot_be_reached_writes_nothing(place: Path, call: Call) -> None:
    done = fitted(call, "--calls", "0.05", "--lose", "0")
    assert isinstance(done.exception, UsageError)
    assert str(done.exception).startswith("with 5.0% of the calls the cascade loses 10.00% of accuracy at the least")
    assert (done.stdout, (place / "cascade.yaml").exists()) == ("", False)


@pytest.mark.parametrize("given", [("--calls", "0.25"), ("--lose", "0"), ("--calls", "0.25", "--lose", "0.005"), ()])
def test_the_cascade_judges_as_it_was_fitted(place: Path, call: Call, given: tuple[str, ...]) -> None:
    done = fitted(call, *given)
    assert done.exit_code == 0
    told = read(place / "cascade.yaml")["provenance"]["response"]
    assert (told["in_sample"]["accuracy"], told["strong"]["accuracy"]) == (1, 1)
    assert told["fast"]["accuracy"] == pytest.approx(54 / 60)
    guard = load_guard(f"cascade:{place / 'cascade.yaml'}")
    assert isinstance(guard, CascadeGuard)
    rows = json.loads((place / "rows.json").read_text(encoding="utf-8"))
    verdicts = guard.judge([Conversation.from_pair(r["question"], r["response"]) for r in rows])
    assert [v.label for v in verdicts] == [r["label"] for r in rows]
    assert len(guard.strong.guard.backend.calls) / 60 == told["in_sample"]["calls"] <= 0.25  # type: ignore[attr-defined]
    assert sorted(verdicts, key=lambda v: v.unsafe_score or 0)[0].label == "安全"


def test_what_is_told(place: Path, call: Call) -> None:
    done = fitted(call)
    names = [line[:24].strip() for line in done.stdout.splitlines()[:5]]
    assert names == ["", "fast", "strong", "cascade, in sample", "cascade, cross-validated"]
    assert "strong asked" in done.stdout.splitlines()[0]
    assert "McNemar p = 1" in done.stdout
    assert done.stderr == "cascade.yaml: fitted on 60 rows of 60 questions\n"


def test_the_file_says_where_it_comes_from(place: Path, call: Call) -> None:
    fitted(call)
    found = read(place / "cascade.yaml")
    assert found["fast"] == {"guard": "policy:models/fast.json", "backend": "scripted"}
    told = found["provenance"]["response"]
    assert told["goal"] == {"calls": None, "lose": 0.005}
    assert (told["rows"], told["questions"]) == (60, 60)
    assert told["labels"]["sha256"].startswith("sha256:")
    assert told["predictions"]["strong"]["sha256"].startswith("sha256:")
    assert {name: of["guard"] for name, of in found["fitted_on"].items()} == {"fast": "policy", "strong": "libra"}
    assert set(told["versions"]) == {"libra-guard", "python", "numpy"}


def test_paths_lead_from_the_file_to_the_models(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "rules.txt").write_text("不得提及猫。", encoding="utf-8")
    shutil.rmtree("fast")
    more = ("--set", "policy=rules.txt", "--threshold", "0.45")
    infer(call, monkeypatch, "fast", f"policy:{place / 'models' / 'fast.json'}", *more)
    (place / "out").mkdir()
    assert fitted(call, out="out/cascade.yaml").exit_code == 0
    assert read(place / "out" / "cascade.yaml")["fast"] == {
        "guard": "policy:../models/fast.json",
        "backend": "scripted",
        "options": {"policy": "../rules.txt", "threshold": 0.45},
    }
    monkeypatch.chdir(place / "out")
    members = load_guard("cascade:cascade.yaml").provenance()["members"]
    assert members["policy:../models/fast.json"]["threshold"] == 0.45


def test_a_guard_may_be_named_by_hand(place: Path, call: Call) -> None:
    (place / "fast" / "run.json").unlink()
    assert "no run.json here tells" in str(fitted(call).exception)
    done = fitted(call, "--fast-guard", "mini")
    assert done.exit_code == 1
    assert "fast: nothing tells its backend and options; fill in by hand what is not as usual\n" in done.stderr
    assert "fast: no run.json tells its model, so it is not checked when the file is loaded\n" in done.stderr
    assert read(place / "cascade.yaml")["fast"] == "mini"
    assert read(place / "cascade.yaml")["fitted_on"].keys() == {"strong"}
    other = fitted(call, "--fast-guard", "mini", "--strong-guard", "shieldlm:x")
    assert "strong: was made with the guard 'libra', not with 'shieldlm'" in str(other.exception)


def test_rows_that_one_run_lacks_are_told(place: Path, call: Call) -> None:
    path = place / "strong" / "0-of-1.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    done = fitted(call)
    assert done.exit_code == 1
    assert "strong: 1 labels without a prediction\n" in done.stderr
    assert "fitted on 59 rows" in done.stderr
    assert read(place / "cascade.yaml")["provenance"]["response"]["rows"] == 59


def test_runs_that_do_not_belong_together(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    infer(
        call, monkeypatch, "questions", "policy:models/fast.json", "--judge", "prompt", "--set", "choose={'': [1, 0]}"
    )
    arguments = ["cascade", "--strong", "strong", "--labels", "rows.json", "--out", "cascade.yaml"]
    assert "cannot be compared" in str(call(*arguments, "--fast", "questions").exception)
    lines = (place / "fast" / "0-of-1.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (place / "first.jsonl").write_text("".join(lines[:30]), encoding="utf-8")
    (place / "last.jsonl").write_text("".join(lines[30:]), encoding="utf-8")
    done = call("cascade", "--fast", "first.jsonl", "--strong", "last.jsonl", *arguments[3:])
    assert isinstance(done.exception, DataError)
    assert "have no row of rows.json in common" in str(done.exception)


def test_a_guard_is_no_cascade_with_itself(place: Path, call: Call) -> None:
    shutil.copytree("fast", "again")
    done = call("cascade", "--fast", "fast", "--strong", "again", "--labels", "rows.json", "--out", "c.yaml")
    assert isinstance(done.exception, UsageError)
    assert "fast and again were judged by the same guard" in str(done.exception)
    assert not (place / "c.yaml").exists()


def test_shards_of_several_guards_are_no_run(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("fast")
    for shard in ("0/2", "1/2"):
        infer(
            call,
            monkeypatch,
            f"fast-{shard[0]}",
            "policy:models/fast.json",
            "--shard",
            shard,
            "--threshold",
            f"0.4{shard[0]}",
        )
    shutil.copytree("fast-0", "fast")
    shutil.copytree("fast-1", "fast", dirs_exist_ok=True)
    assert "of no one guard" in str(fitted(call).exception)


def test_a_goal_that_only_the_rows_fitted_on_reach_is_told(place: Path, call: Call) -> None:
    # All texts of a score at which the fast guard is wrong answer one question: held out, nothing tells of them.
    labels = json.loads((place / "rows.json").read_text(encoding="utf-8"))
    for row in labels:
        row["question"] = "同一问" if row["response"].endswith("号8甲") else row["question"]
    (place / "same.json").write_text(json.dumps(labels), encoding="utf-8")
    done = call(
        *("cascade", "--fast", "fast", "--strong", "strong", "--labels", "same.json", "--out", "c.yaml"),
        *("--lose", "0.01"),
    )
    assert "cross-validated, " in done.stderr
    assert "of accuracy is lost, and not 1.00%" in done.stderr


def test_a_key_is_in_no_file(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("fast")
    # The script knows no key; what `infer` keeps of one is looked at alone.
    infer(call, monkeypatch, "fast", "policy:models/fast.json")
    record = json.loads((place / "fast" / "run.json").read_text(encoding="utf-8"))
    assert record["asked"] == {"guard": "policy:models/fast.json", "backend": "scripted", "options": {}}
    record["asked"] |= {"options": {"max_new_tokens": 8}, "left_out": ["api_key"]}
    (place / "fast" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    done = fitted(call)
    assert (done.exit_code, read(place / "cascade.yaml")["fast"]["options"]) == (1, {"max_new_tokens": 8})
    assert "fast: api_key: in no record; fill in by hand, or by the environment\n" in done.stderr


def test_what_was_passed_over_is_told_and_nothing_odd(place: Path, call: Call) -> None:
    for name in ("fast", "strong"):
        shutil.copy(place / name / "run.json", place / name / "old.json")
    (place / "labels").mkdir()
    shutil.move(place / "rows.json", place / "labels" / "rows.json")
    (place / "labels" / "more.tsv").touch()
    done = fitted(call, "--labels", "labels")
    assert done.exit_code == 0
    assert "2 files that hold no predictions: passed over (fast/old.json; strong/old.json)\n" in done.stderr
    assert "passed over (more.tsv)\n" in done.stderr


def test_limits_hold_for_the_guards_that_they_were_fitted_on(place: Path, call: Call) -> None:
    assert fitted(call).exit_code == 0
    script(place / "models", "fast", {"": 0.3})
    with pytest.raises(UsageError, match=r"cascade\.yaml: fast: the limits were fitted on another model_hash: .*again"):
        load_guard("cascade:cascade.yaml")


def test_limits_of_questions_stand_beside_those_of_answers(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(place / "models", "fast", {f"第{i}问": i / 60 for i in range(60)})
    script(place / "models", "strong", {r["question"]: 0.9 if r["label"] == "不安全" else 0.2 for r in rows(place)})
    for name in ("fast", "strong"):
        shutil.rmtree(name)
        infer(call, monkeypatch, name, f"policy:models/{name}.json")
        infer(call, monkeypatch, f"{name}-questions", f"policy:models/{name}.json", "--judge", "prompt")
    given = ("--label-field", "label", "--lose", "1")
    questions = ("cascade", "--fast", "fast-questions", "--strong", "strong-questions", "--labels", "rows.json", *given)
    alone = call(*questions, "--out", "cascade.yaml")
    assert "fit those first, with the same --out" in str(alone.exception)
    assert not (place / "cascade.yaml").exists()
    assert fitted(call).exit_code == 0
    before = read(place / "cascade.yaml")
    done = call(*questions, "--out", "cascade.yaml")
    assert done.exit_code == 0
    after = read(place / "cascade.yaml")
    limits = after.pop("prompt")
    assert after.pop("provenance").keys() == {"response", "prompt"}
    assert before.pop("provenance").keys() == {"response"}
    assert after == before
    assert limits != {key: before[key] for key in limits}
    guard = load_guard("cascade:cascade.yaml")
    assert guard.provenance()["limits"]["prompt"] == list(limits.values())
    # Fitted again, the answers leave the questions alone.
    assert fitted(call, "--lose", "0.02").exit_code == 0
    assert read(place / "cascade.yaml")["prompt"] == limits
    assert read(place / "cascade.yaml")["provenance"].keys() == {"response", "prompt"}

"""What GuardBench is given: a float a conversation that is more than 0.5 where the guard would block."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from libra_guard import BackendError, Conversation, load_guard
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.evaluate.guardbench import moderate
from libra_guard.guards.libra import LibraGuard
from libra_guard.guards.policy import PolicyGuard
from libra_guard.guards.qwen3guard import Qwen3Guard

EXAMPLES = Path(__file__).parents[2] / "examples"


def turns(*texts: str, first: str = "user") -> list[dict[str, str]]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def policy(scores: dict[str, float], **options: Any) -> PolicyGuard:
    choose = {text: [1 - score, score] for text, score in scores.items()}
    return PolicyGuard(ScriptedBackend(choose=choose), **options)


@pytest.mark.filterwarnings("ignore:scored 1")
@pytest.mark.parametrize(
    "conversation",
    [
        [],
        turns(""),
        turns("好", " \u200b"),
        turns("好", "坏\ud800"),
        [{"role": "system", "content": "好"}],
        [{"role": "user", "content": None}, *turns("好", first="assistant")],
        [{"role": "user"}, *turns("好", first="assistant")],
        [{"content": "好"}, *turns("好", first="assistant")],
        [{"role": "user", "content": [{"type": "text", "text": "好"}]}, *turns("好", first="assistant")],
        [None, *turns("好")],
        [{"role": "user"}],
        None,
    ],
)
def test_what_cannot_be_judged_fails_closed(conversation: Any) -> None:
    assert moderate(policy({"": 0.0}))([conversation, turns("好")]) == [1.0, 0.0]


def test_what_is_not_judged_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="a broken message, or a last one that is blank"):
        assert moderate(policy({"": 0.0}))([turns(" ")]) == [1.0]
    answers = LibraGuard(ScriptedBackend(choose={"": [1.0, 0.0]}))
    with pytest.warns(UserWarning, match="a prompt, which 'libra' does not judge"):
        assert moderate(answers)([turns("好"), turns("好", "好")]) == [1.0, 0.0]


def test_blank_turns_before_the_last_are_left_out() -> None:
    guard = policy({"": 0.1})
    assert moderate(guard)([turns("", "前", " ", "后")]) == [pytest.approx(0.1)]
    assert isinstance(guard.backend, ScriptedBackend)
    assert "前" in guard.backend.calls[0].item.messages[-1].content  # type: ignore[union-attr]


def test_further_keys_of_a_turn_do_not_matter() -> None:
    assert moderate(policy({"": 0.1}))([[{"role": "user", "content": "好", "from": "human"}]]) == [pytest.approx(0.1)]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_more_than_a_half_is_what_the_guard_blocks(threshold: float) -> None:
    scores = {f"第{i}句": i / 20 for i in range(20)} | {"全": 1.0}
    conversations = [turns("问", text) for text in scores]
    guard = policy(scores, threshold=threshold)
    found = moderate(guard)(conversations)
    assert [score > 0.5 for score in found] == [score >= threshold for score in scores.values()]
    assert found == sorted(found)
    assert all(type(score) is float and 0 <= score <= 1 for score in found)


def test_questions_go_by_the_threshold_for_questions() -> None:
    guard = load_guard("mini")
    question, answer = turns("如何泡一杯绿茶？"), turns("如何泡一杯绿茶？", "水温八十度左右。")
    verdicts = guard.judge([Conversation.model_validate({"messages": c}) for c in (question, answer)])
    thresholds = [
        guard.threshold_for(c.target) for c in (Conversation.from_pair("问"), Conversation.from_pair("问", "答"))
    ]
    assert thresholds[0] != thresholds[1]
    expected = [(v.unsafe_score or 0) / t / 2 for v, t in zip(verdicts, thresholds, strict=True)]
    assert moderate(guard)([question, answer]) == [pytest.approx(e) for e in expected]


def test_controversial_is_blocked_and_ranks_below_what_is_unsafe() -> None:
    guard = Qwen3Guard(ScriptedBackend(choose={"甲": [0.1, 0.6, 0.3], "乙": [0.4, 0.2, 0.4], "丙": [0.6, 0.2, 0.2]}))
    labels = [v.label for v in guard.judge([Conversation.from_pair("问", text) for text in "甲乙丙"])]
    low, doubtful, safe = moderate(guard)([turns("问", text) for text in "甲乙丙"])
    found = dict(zip(labels, (low, doubtful, safe), strict=True))
    assert len(found) == 3
    assert sorted(found.values(), reverse=True) == [found["不安全"], found["有争议"], found["安全"]]
    assert found["有争议"] > 0.5 >= found["安全"]


@pytest.mark.parametrize(
    ("answer", "score"),
    [('{"答案": "不安全", "分析": "坏"}', 1.0), ('{"答案": "安全", "分析": "好"}', 0.0), ("无法判断", 1.0)],
)
def test_a_verdict_without_a_score(answer: str, score: float) -> None:
    guard = PolicyGuard(ScriptedBackend(generate={"": answer}))
    assert moderate(guard)([turns("问", "答")]) == [score]


def test_a_model_that_fails_fails_the_benchmark() -> None:
    with pytest.raises(BackendError, match="the script has no answer"):
        moderate(policy({"别的": 0.1}))([turns("问", "答")])


def test_the_example_runs_in_guardbench_itself(tmp_path: Path) -> None:
    """The example as it stands, over a few rows; what it wrote is what the guard says."""
    samples = json.loads((EXAMPLES / "libra-mini.json").read_text(encoding="utf-8"))[:8]
    (tmp_path / "libra-mini.json").write_text(json.dumps(samples), encoding="utf-8")
    program = shutil.copy(EXAMPLES / "guardbench_mini.py", tmp_path)
    place = {"GUARDBENCH_DEV_PATH": str(tmp_path / "data"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=os.environ | place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "results" / "libra_mini" / "mini.json").read_text(encoding="utf-8"))
    verdicts = load_guard("mini").judge([Conversation.from_pair(s["question"], s["response"]) for s in samples])
    assert {name: score > 0.5 for name, score in scores.items()} == {
        sample["id"]: verdict.flagged for sample, verdict in zip(samples, verdicts, strict=True)
    }
    hits = sum(s["label"] == "不安全" and v.flagged for s, v in zip(samples, verdicts, strict=True))
    recall = hits / sum(s["label"] == "不安全" for s in samples)
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| libra_mini")]
    assert f"{recall:.3f}" in row.split("|")[3]

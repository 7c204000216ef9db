"""Guards with a calibration: their scores, labels, thresholds and what they say of themselves; those without scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from libra_guard import Conversation, load_guard
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import UsageError
from libra_guard.guards.calibration import Calibration, Isotonic
from libra_guard.guards.classifier import MiniGuard
from libra_guard.guards.duoguard import DuoGuard
from libra_guard.guards.generative import GenerativeGuard
from libra_guard.guards.libra import LibraGuard
from libra_guard.guards.qwen3guard import Qwen3Guard
from libra_guard.guards.shieldgemma import ShieldGemma
from libra_guard.guards.xguard import XGuard
from libra_guard.records import Label, Target
from libra_guard.taxonomy import SCENARIOS

PAIR = Conversation.from_pair("如何泡茶？", "水温八十度。")
QUESTION = Conversation.from_pair("如何泡茶？")
LABELS = ["unsafe", *(scenario.name for scenario in SCENARIOS)]


def halving(**more: Any) -> Calibration:
    """Scores of answers become half of themselves."""
    return Calibration(response=Isotonic(x=[0, 1], y=[0, 0.5], **more))


def mini(*logits: float, **options: Any) -> MiniGuard:
    backend = ScriptedBackend(logits=[[x, *[-5.0] * 7] for x in logits])
    backend.config = {"labels": LABELS, "threshold": 0.6, "question_threshold": 0.3}  # type: ignore[attr-defined]
    return MiniGuard(backend, **options)


def test_a_classifier_s_score_label_and_threshold() -> None:
    judge = mini(2.0, 2.0).calibrated(halving(threshold=0.45))
    answer, question = judge.judge([PAIR, QUESTION])
    # 0.880797 / 2; the question has no map, so its score and its threshold stay.
    assert (answer.unsafe_score, answer.label) == (pytest.approx(0.440398, abs=1e-6), Label.SAFE)
    assert (question.unsafe_score, question.label) == (0.880797, Label.UNSAFE)
    assert [judge.threshold_for(target) for target in (Target.RESPONSE, Target.PROMPT)] == [0.45, 0.3]
    assert answer.categories[LABELS[1]] == 0.006693


def test_a_threshold_of_the_caller_holds_for_the_calibrated_score() -> None:
    judge = mini(2.0, threshold=0.44).calibrated(halving(threshold=0.1), keep_thresholds=True)
    (verdict,) = judge.judge([PAIR])
    assert (judge.threshold_for(Target.RESPONSE), judge.threshold_for(Target.PROMPT)) == (0.44, 0.44)
    assert verdict.label is Label.UNSAFE
    (verdict,) = mini(2.0, threshold=0.45).calibrated(halving(), keep_thresholds=True).judge([PAIR])
    assert verdict.label is Label.SAFE


def test_the_guard_itself_stays_as_it_was() -> None:
    judge = mini(2.0)
    before = judge.provenance()
    judge.calibrated(halving())
    assert (judge.calibration, judge.threshold, judge.provenance()) == (None, 0.6, before)
    assert judge.judge([PAIR])[0].unsafe_score == 0.880797


def test_provenance_names_the_file_and_the_thresholds() -> None:
    scale = halving(threshold=0.45)
    judge = mini().calibrated(scale)
    told = judge.provenance()
    assert told["calibration"] == {"sha256": scale.sha256, "thresholds": {"prompt": 0.3, "response": 0.45}}
    assert (told["threshold"], told["question_threshold"]) == (0.45, 0.3)


def test_evidence_speaks_of_the_calibrated_score() -> None:
    judge = mini(2.0, 2.0, -2.0).calibrated(halving(threshold=0.4))
    (verdict,) = judge.judge([Conversation.from_pair("问", "这是一句。这是另一句。")], explain=True)
    assert verdict.analysis is not None
    assert "不安全得分 0.44，阈值 0.40" in verdict.analysis
    assert "去掉“这是另一句。”后得分降至 0.06" in verdict.analysis


def test_no_evidence_where_the_calibrated_score_does_not_fall() -> None:
    level = Calibration(response=Isotonic(x=[0, 0.1, 0.9, 1], y=[0, 0.7, 0.7, 1]))
    (verdict,) = (
        mini(2.0, 2.0, -2.0)
        .calibrated(level)
        .judge([Conversation.from_pair("问", "这是一句。这是另一句。")], explain=True)
    )
    assert verdict.analysis == "该回答不安全（不安全得分 0.70，阈值 0.50）。"


def test_the_worst_window_decides_by_the_calibrated_score(tokens_folder: Path) -> None:
    text = "水" * 40 + "毒" + "水" * 60
    plain = load_guard(f"mini:{tokens_folder}")
    (before,) = plain.judge([Conversation.from_pair("问", text)])
    (after,) = plain.calibrated(halving(threshold=0.4)).judge([Conversation.from_pair("问", text)])
    assert before.windows == after.windows > 1
    assert after.unsafe_score == pytest.approx((before.unsafe_score or 0) / 2, abs=1e-6)
    assert after.label is Label.UNSAFE


def test_duoguard() -> None:
    judge = DuoGuard(ScriptedBackend(logits=[[*[-4.0] * 11, 2.0]])).calibrated(halving(threshold=0.45))
    (verdict,) = judge.judge([PAIR])
    assert (verdict.unsafe_score, verdict.label) == (pytest.approx(0.440398, abs=1e-6), Label.SAFE)
    assert verdict.categories["Jailbreak prompts"] == 0.880797


@pytest.mark.parametrize(("threshold", "label"), [(0.39, Label.UNSAFE), (0.41, Label.SAFE)])
def test_libra(threshold: float, label: Label) -> None:
    judge = LibraGuard(ScriptedBackend(choose={"": [0.02, 0.08]})).calibrated(halving(threshold=threshold))
    (verdict,) = judge.judge([PAIR])
    assert (verdict.unsafe_score, verdict.label) == (0.4, label)


@pytest.mark.parametrize(
    ("safe", "unsafe", "controversial", "score", "label"),
    [
        # The map halves: P(unsafe) 0.9 is 0.45; the score counts half of the doubt.
        (0.1, 0.9, 0.0, 0.45, Label.UNSAFE),
        (0.0, 0.8, 0.2, 0.45, Label.UNSAFE),
        (0.0, 0.7, 0.3, 0.425, Label.CONTROVERSIAL),
        # Without a calibration P(unsafe) + P(controversial) would decide.
        (0.0, 0.5, 0.5, 0.375, Label.SAFE),
        (0.6, 0.4, 0.0, 0.2, Label.SAFE),
    ],
)
def test_three_states(safe: float, unsafe: float, controversial: float, score: float, label: Label) -> None:
    backend = ScriptedBackend(choose={"": [safe, unsafe, controversial]})
    (verdict,) = Qwen3Guard(backend).calibrated(halving(threshold=0.4)).judge([PAIR])
    assert (verdict.unsafe_score, verdict.label) == (score, label)
    assert verdict.flagged == (score >= 0.4)


def test_a_target_without_a_map_keeps_the_rule_of_its_states() -> None:
    backend = ScriptedBackend(choose={"": [0.45, 0.15, 0.4]})
    (verdict,) = Qwen3Guard(backend).calibrated(halving()).judge([QUESTION])
    assert (verdict.unsafe_score, verdict.label) == (pytest.approx(0.35), Label.CONTROVERSIAL)


def test_xguard_s_two_thresholds() -> None:
    backend = ScriptedBackend(choose=lambda prompt, choices: [0.4, 0.6, *[0.0] * (len(choices) - 2)])
    judge = XGuard(backend).calibrated(halving(threshold=0.25))
    assert [v.label for v in judge.judge([PAIR, QUESTION])] == [Label.UNSAFE, Label.UNSAFE]
    assert [v.unsafe_score for v in judge.judge([PAIR, QUESTION])] == pytest.approx([0.3, 0.6])
    assert (judge.threshold, judge.question_threshold) == (0.25, 0.5)


def test_shieldgemma_s_worst_policy() -> None:
    judge = ShieldGemma(ScriptedBackend(choose={"Harassment": [0.9, 0.1], "": [0.2, 0.8]}))
    (verdict,) = judge.calibrated(halving(threshold=0.4)).judge([PAIR])
    assert (verdict.unsafe_score, verdict.label) == (0.45, Label.UNSAFE)
    assert max(verdict.categories.values()) == 0.45


# Guards that have no scores


def test_generated_labels_have_no_scores() -> None:
    judge: GenerativeGuard = LibraGuard(ScriptedBackend(generate=[]))
    assert not judge.gives_scores
    with pytest.raises(UsageError, match="the guard 'libra' gives no scores here"):
        judge.calibrated(halving())

"""A cascade: who is asked, who decides, and what the scores of both make of each other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libra_guard import BackendError, Conversation, Label, Message, Method, Role, Target, UsageError, load_guard
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.guards.cascade import CascadeGuard
from libra_guard.guards.generative import LEFT_OUT
from libra_guard.records import Verdict

Member = Callable[..., dict[str, Any]]
Combined = Callable[..., str]
LIMITS = {"safe_below": 0.2, "unsafe_from": 0.6}
FAST = {"好": 0.05, "坏": 0.95, "似好": 0.2, "疑": 0.4}
STRONG = {"疑甲": 0.1, "疑乙": 0.5, "疑丙": 1.0, "": 0.0}
BY_FAST, BY_STRONG = "decided by policy:fast.json", "decided by libra:strong.json"
STRONG_0, STRONG_1 = (f"{BY_STRONG} ({score} of its own 0.500)" for score in ("0.000", "1.000"))


@pytest.fixture
def cascade(member: Member, combined: Combined) -> Callable[..., CascadeGuard]:
    """The cascade of a policy and a Libra guard, with what is to be other."""

    def load(**other: Any) -> CascadeGuard:
        usual = {"fast": lambda: member("fast", FAST), "strong": lambda: member("strong", STRONG, "libra")}
        guards = {name: make() for name, make in usual.items() if name not in other}
        guard = load_guard(combined("cascade", **LIMITS | guards | other))
        assert isinstance(guard, CascadeGuard)
        return guard

    return load


def answers(*texts: str) -> list[Conversation]:
    return [Conversation.from_pair("问", text) for text in texts]


def asked(guard: CascadeGuard, which: str) -> int:
    backend = getattr(guard, which).guard.backend
    assert isinstance(backend, ScriptedBackend)
    return len(backend.calls)


# Who decides


def test_the_fast_guard_decides_what_is_clear_and_the_strong_one_the_rest(cascade: Callable[..., CascadeGuard]) -> None:
    guard = cascade()
    safe, unsafe, first, second, third = guard.judge(answers("好", "坏", "疑甲", "疑乙", "疑丙"))
    assert (safe.label, safe.unsafe_score, safe.notes) == (Label.SAFE, pytest.approx(0.05), (BY_FAST,))
    assert (unsafe.label, unsafe.unsafe_score, unsafe.notes) == (Label.UNSAFE, pytest.approx(0.95), (BY_FAST,))
    assert [v.label for v in (first, second, third)] == [Label.SAFE, Label.UNSAFE, Label.UNSAFE]
    assert [v.unsafe_score for v in (first, second, third)] == [pytest.approx(0.24), 0.4, 0.6]
    # The score is moved, so the guard's own is told.
    assert [v.notes for v in (first, second, third)] == [
        (f"{BY_STRONG} (0.100 of its own 0.500)",),
        (f"{BY_STRONG} (0.500 of its own 0.500)",),
        (f"{BY_STRONG} (1.000 of its own 0.500)",),
    ]
    assert {v.guard for v in (safe, first)} == {"cascade"}
    assert (asked(guard, "fast"), asked(guard, "strong")) == (5, 3)


def test_what_is_unclear_is_asked_in_one_call(
    cascade: Callable[..., CascadeGuard], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = cascade()
    calls: list[int] = []
    judge = guard.strong.guard.judge
    monkeypatch.setattr(guard.strong.guard, "judge", lambda c, **more: calls.append(len(c)) or judge(c, **more))
    guard.judge(answers("疑甲", "好", "疑乙", "坏", "疑丙"))
    guard.judge(answers("好", "坏"))
    assert calls == [3]


@pytest.mark.parametrize(
    ("score", "by"), [(0.19, BY_FAST), (0.2, STRONG_0), (0.49, STRONG_0), (0.59, STRONG_0), (0.6, BY_FAST)]
)
def test_the_limits(cascade: Callable[..., CascadeGuard], member: Member, score: float, by: str) -> None:
    (verdict,) = cascade(fast=member("fast", {"": score})).judge(answers("话"))
    assert verdict.notes == (by,)


def test_a_verdict_beyond_the_other_limit_does_not_stand(cascade: Callable[..., CascadeGuard], member: Member) -> None:
    # Unsafe with a score that is too low to be sure of it, though one that is safe would stand; and the other way.
    low = member("fast", {"": 0.15}, options={"threshold": 0.1})
    assert cascade(fast=low).judge(answers("话"))[0].notes == (STRONG_0,)
    high = member("fast", {"": 0.85}, options={"threshold": 0.9})
    assert cascade(fast=high).judge(answers("话"))[0].notes == (STRONG_0,)


@pytest.mark.parametrize("limits", [(0.95, 0.99), (0.2, 0.4)])
def test_a_controversial_verdict_never_stands(
    cascade: Callable[..., CascadeGuard], tmp_path: Path, limits: tuple[float, float]
) -> None:
    (tmp_path / "q.json").write_text('{"choose": {"": [0.3, 0.3, 0.4]}}', encoding="utf-8")
    fast = {"guard": "qwen3guard:q.json", "backend": "scripted"}
    guard = cascade(fast=fast, safe_below=limits[0], unsafe_from=limits[1])
    (alone,) = guard.fast.guard.judge(answers("话"))
    assert (alone.label, alone.unsafe_score) == (Label.CONTROVERSIAL, pytest.approx(0.5))
    assert guard.judge(answers("话"))[0].notes == (STRONG_0,)


def test_questions_have_limits_of_their_own(cascade: Callable[..., CascadeGuard], member: Member) -> None:
    strong = member("strong", {"": 0.9})
    guard = cascade(strong=strong, prompt={"safe_below": 0.01, "unsafe_from": 0.97})
    question, answer = guard.judge([Conversation.from_pair("好"), *answers("好")])
    assert (question.label, answer.label) == (Label.UNSAFE, Label.SAFE)
    assert guard.threshold_for(Target.PROMPT) == pytest.approx(0.49)
    assert guard.threshold_for(Target.RESPONSE) == guard.threshold == pytest.approx(0.4)
    assert guard.provenance()["limits"] == {"prompt": [0.01, 0.97], "response": [0.2, 0.6]}
    (alike, _) = cascade(strong=strong).judge([Conversation.from_pair("好"), *answers("好")])
    assert alike.label is Label.SAFE


def test_what_one_guard_does_not_judge_the_other_decides_alone(
    cascade: Callable[..., CascadeGuard], member: Member
) -> None:
    guard = cascade()
    (verdict,) = guard.judge([Conversation.from_pair("疑")])
    assert (verdict.label, verdict.unsafe_score) == (Label.SAFE, pytest.approx(0.4))
    assert verdict.notes == ("libra:strong.json does not judge a prompt", BY_FAST)
    assert guard.threshold_for(Target.PROMPT) == 0.5
    assert guard.provenance()["limits"] == {"response": [0.2, 0.6]}
    turned = cascade(fast=member("fast", FAST, "libra"), strong=member("strong", {"": 0.3}))
    (verdict,) = turned.judge([Conversation.from_pair("好")])
    assert (verdict.label, verdict.unsafe_score) == (Label.SAFE, pytest.approx(0.3))
    assert verdict.notes == ("libra:fast.json does not judge a prompt", "decided by policy:strong.json")
    assert turned.threshold_for(Target.PROMPT) == 0.5


# What cannot be read


def test_the_strong_guard_decides_what_the_fast_one_says_unreadably(
    cascade: Callable[..., CascadeGuard], member: Member
) -> None:
    (verdict,) = cascade(fast=member("fast", None, generate={"": "？"})).judge(answers("疑丙"))
    assert (verdict.label, verdict.unsafe_score) == (Label.UNSAFE, 0.6)
    assert verdict.notes == ("the answer of policy:fast.json could not be read", STRONG_1)


def test_a_fast_verdict_without_a_score_is_not_clear(cascade: Callable[..., CascadeGuard], member: Member) -> None:
    fast = member("fast", None, generate={"": '{"答案": "安全", "分析": "好"}'})
    (verdict,) = cascade(fast=fast).judge(answers("疑丙"))
    assert verdict.label is Label.UNSAFE
    assert verdict.notes == ("policy:fast.json gave no score", STRONG_1)


def test_where_the_strong_guard_cannot_be_read_the_verdict_fails_closed(
    cascade: Callable[..., CascadeGuard], member: Member
) -> None:
    guard = cascade(strong=member("strong", None, "libra", generate={"": "？"}))
    clear, unread = guard.judge(answers("好", "疑"))
    assert clear.label is Label.SAFE
    assert (unread.label, unread.valid, unread.unsafe_score, unread.flagged) == (None, False, None, True)
    assert (unread.raw, unread.notes) == ("？", ("the answer of libra:strong.json could not be read",))


def test_a_strong_verdict_without_a_score_has_none_here(cascade: Callable[..., CascadeGuard], member: Member) -> None:
    strong = member("strong", None, "libra", generate={"": '{"答案": "不安全", "分析": "坏"}'})
    (verdict,) = cascade(strong=strong).judge(answers("疑"))
    assert (verdict.label, verdict.unsafe_score, verdict.analysis) == (Label.UNSAFE, None, "坏")
    assert (verdict.method, verdict.notes) == (Method.GENERATE, (BY_STRONG,))


@pytest.mark.parametrize("which", ["fast", "strong"])
def test_a_guard_that_fails_fails_the_whole(cascade: Callable[..., CascadeGuard], member: Member, which: str) -> None:
    other = member(which, {"别的": 0.4}, "policy" if which == "fast" else "libra")
    with pytest.raises(BackendError, match="the script has no answer"):
        cascade(**{which: other}).judge(answers("好", "疑"))


# What a verdict says


def test_the_strong_guard_s_own_threshold_comes_to_lie_in_the_middle(
    cascade: Callable[..., CascadeGuard], member: Member
) -> None:
    strong = member("strong", {"疑甲": 0.4, "疑乙": 0.8}, "libra", options={"threshold": 0.8})
    safe, unsafe = cascade(strong=strong).judge(answers("疑甲", "疑乙"))
    assert (safe.label, safe.unsafe_score) == (Label.SAFE, pytest.approx(0.3))
    assert (unsafe.label, unsafe.unsafe_score) == (Label.UNSAFE, pytest.approx(0.4))


def test_scores_of_both_rank_together(cascade: Callable[..., CascadeGuard], member: Member) -> None:
    texts = [f"第{i}句" for i in range(100, 150)]
    fast = {text: i / 49 for i, text in enumerate(texts)}
    strong = {text: (i * 7 % 50) / 49 for i, text in enumerate(texts)}
    guard = cascade(
        fast=member("fast", fast, options={"threshold": 0.3}),
        strong=member("strong", strong, "libra", options={"threshold": 0.7}),
    )
    verdicts = guard.judge(answers(*texts))
    strong_ones = [v for v in verdicts if v.notes != (BY_FAST,)]
    assert 0 < len(strong_ones) < len(verdicts)
    by_score = sorted(verdicts, key=_score)
    assert [v.label for v in by_score] == sorted((v.label for v in verdicts), key=lambda label: label is Label.UNSAFE)
    assert all((_score(v) >= guard.threshold_for(Target.RESPONSE)) == (v.label is Label.UNSAFE) for v in verdicts)
    assert all(0.2 <= _score(v) <= 0.6 for v in strong_ones)


def _score(verdict: Verdict) -> float:
    assert verdict.unsafe_score is not None
    return verdict.unsafe_score


def test_the_reasons_are_those_of_the_guard_that_decided(cascade: Callable[..., CascadeGuard], member: Member) -> None:
    guard = cascade(
        fast=member("fast", FAST, generate={"": '，\n  "分析": "快"\n}'}),
        strong=member("strong", STRONG, "libra", generate={"": '，\n  "分析": "强"\n}'}),
    )
    plain = guard.judge(answers("好", "疑乙"))
    before = asked(guard, "fast"), asked(guard, "strong")
    fast, strong = explained = guard.judge(answers("好", "疑乙"), explain=True)
    assert [(v.label, v.unsafe_score, v.notes) for v in explained] == [
        (v.label, v.unsafe_score, v.notes) for v in plain
    ]
    assert (plain[0].analysis, plain[1].analysis) == (None, None)
    assert ("快" in (fast.raw or ""), "强" in (strong.raw or "")) == (True, True)
    # The fast guard judges two rows, and the clear one again with reasons; the strong one is asked once, with them.
    assert (asked(guard, "fast") - before[0], asked(guard, "strong") - before[1]) == (4, 2)


def test_reasons_for_another_label_are_left_out(cascade: Callable[..., CascadeGuard], tmp_path: Path) -> None:
    script = '{"generate": ["{\\"答案\\": \\"安全\\"}", "{\\"答案\\": \\"不安全\\", \\"分析\\": \\"坏\\"}"]}'
    (tmp_path / "drawn.json").write_text(script, encoding="utf-8")
    guard = cascade(fast={"guard": "policy:drawn.json", "backend": "scripted"})
    (verdict,) = guard.judge([Conversation.from_pair("问")], explain=True)
    assert (verdict.label, verdict.analysis) == (Label.SAFE, None)
    assert verdict.notes == (LEFT_OUT, "libra:strong.json does not judge a prompt", "decided by policy:drawn.json")


def test_what_was_not_read_is_said_by_the_guard_that_decided(cascade: Callable[..., CascadeGuard]) -> None:
    earlier = (Message(role=Role.USER, content="先"), Message(role=Role.ASSISTANT, content="前"))
    long = [Conversation(messages=(*earlier, *c.messages)) for c in answers("好", "疑丙")]
    fast, strong = cascade().judge(long)
    assert fast.notes == (BY_FAST,)
    assert strong.notes == ("2 earlier messages were not read", STRONG_1)


def test_mini_with_windows_before_a_second_classifier(
    combined: Combined, tokens_folder: Path, ngrams_folder: Path
) -> None:
    guard = load_guard(
        combined(
            "cascade", fast=f"mini:{tokens_folder}", strong=f"ngram:{ngrams_folder}", safe_below=0.3, unsafe_from=0.9
        )
    )
    assert guard.system is load_guard("mini").system
    bad, long = guard.judge(answers("毒", "好" * 200 + "毒"), explain=True)
    assert (bad.label, bad.windows) == (Label.UNSAFE, 1)
    assert (long.label, long.notes) == (bad.label, bad.notes)
    assert long.windows > 1
    assert bad.notes == (f"decided by mini:{tokens_folder}",)
    assert bad.analysis


# What the limits were fitted on


def test_limits_hold_for_the_guards_that_they_were_fitted_on(
    cascade: Callable[..., CascadeGuard], member: Member, tmp_path: Path
) -> None:
    told = {name: m.guard.provenance() for name, m in zip(("fast", "strong"), cascade().members, strict=True)}
    assert cascade(fitted_on=told).judge(answers("好"))[0].label is Label.SAFE
    # Elsewhere and with other libraries it is the same model.
    moved = {name: {**guard, "model": "/elsewhere", "torch": "1"} for name, guard in told.items()}
    assert cascade(fitted_on=moved).judge(answers("好"))[0].label is Label.SAFE
    with pytest.raises(UsageError, match=r"strong: the limits were fitted on another model_hash: .*libra cascade"):
        cascade(fitted_on=told, strong=member("strong", {"": 0.4}, "libra"))
    with pytest.raises(UsageError, match="fast: the limits were fitted on another prompt_sha256"):
        cascade(fitted_on=told, fast=member("fast", FAST, options={"policy": "不得提及猫。"}))


@pytest.mark.parametrize("fitted_on", [None, {}, {"fast": {}, "strong": {}}])
def test_limits_of_which_nothing_is_told_are_not_checked(cascade: Callable[..., CascadeGuard], fitted_on: Any) -> None:
    assert cascade(fitted_on=fitted_on).judge(answers("好"))[0].label is Label.SAFE


def test_a_calibration_that_came_or_went_is_another_scale(
    combined: Combined, tokens_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tokens_folder, tmp_path / "model")
    plain = load_guard(f"mini:{folder}").provenance()
    guards = {"fast": f"mini:{folder}", "strong": "mini", **LIMITS}
    (folder / "calibration.json").write_text('{"response": {"method": "none", "threshold": 0.4}}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"fast: .* another calibration: None, and this guard has sha256:"):
        load_guard(combined("cascade", fitted_on={"fast": plain}, **guards))
    # Of the fast guard nothing is told, so it is not looked at.
    assert load_guard(combined("cascade", fitted_on={"strong": load_guard("mini").provenance()}, **guards))
    calibrated = load_guard(f"mini:{folder}").provenance()
    assert load_guard(combined("cascade", fitted_on={"fast": calibrated}, **guards)).judge(answers("好"))[0].valid
    (folder / "calibration.json").unlink()
    with pytest.raises(UsageError, match=r"fast: .* another calibration: sha256:.*, and this guard has None"):
        load_guard(combined("cascade", fitted_on={"fast": calibrated}, **guards))


def test_guards_inside_others_are_looked_at_too(
    cascade: Callable[..., CascadeGuard], combined: Combined, member: Member
) -> None:
    combined("ensemble", "inner", members=[member("one", {"": 0.1}), member("two", {"": 0.2})])
    guard = cascade(strong="ensemble:inner.yaml")
    told = {"strong": guard.strong.guard.provenance()}
    assert cascade(strong="ensemble:inner.yaml", fitted_on=told).judge(answers("好"))[0].valid
    member("two", {"": 0.3})
    with pytest.raises(UsageError, match="strong: the limits were fitted on another model_hash"):
        cascade(strong="ensemble:inner.yaml", fitted_on=told)

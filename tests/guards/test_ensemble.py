"""An ensemble: means and votes, members that say nothing, and whose reasons are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libra_guard import BackendError, Conversation, Label, Message, Method, Role, Target, load_guard
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.guards.combined import CombinedGuard
from libra_guard.guards.ensemble import EnsembleGuard
from libra_guard.records import Verdict

Member = Callable[..., dict[str, Any]]
Combined = Callable[..., str]
ANSWER = [Conversation.from_pair("问", "答")]
SAFE = {"": '{"答案": "安全", "分析": "没有问题"}'}
UNSAFE = {"": '{"答案": "不安全", "分析": "有害"}'}
UNREAD = {"": "？"}


@pytest.fixture
def judged(member: Member, combined: Combined) -> Callable[..., Verdict]:
    """The verdict of policies with these scores, or that write this where it is a script."""

    def judge(*scores: Any, explain: bool = False, **settings: Any) -> Verdict:
        weights = settings.pop("weights", [1.0] * len(scores))
        members = [
            member(f"m{i}", None, generate=score) if isinstance(score, dict) else member(f"m{i}", {"": score})
            for i, score in enumerate(scores)
        ]
        members = [{**m, "weight": weight} for m, weight in zip(members, weights, strict=True)]
        return load_guard(combined("ensemble", members=members, **settings)).judge(ANSWER, explain=explain)[0]

    return judge


@pytest.mark.parametrize(
    ("scores", "settings", "expected"),
    [
        ([0.2, 0.6], {}, (Label.SAFE, 0.4)),
        ([0.2, 0.8], {}, (Label.UNSAFE, 0.5)),
        ([0.2, 0.6], {"threshold": 0.4}, (Label.UNSAFE, 0.4)),
        ([0.2, 0.6], {"weights": [1, 3]}, (Label.UNSAFE, 0.5)),
        ([0.2, 0.6], {"weights": [0.1, 0.3]}, (Label.UNSAFE, 0.5)),
        ([0.2, UNSAFE], {}, (Label.UNSAFE, 0.6)),
        ([0.2, SAFE], {}, (Label.SAFE, 0.1)),
        ([0.49, 0.51], {"rule": "vote"}, (Label.UNSAFE, 0.5)),
        ([0.9, 0.4, 0.4], {"rule": "vote"}, (Label.SAFE, 0.333333)),
        ([0.9, 0.4, UNSAFE], {"rule": "vote"}, (Label.UNSAFE, 0.666667)),
        ([0.9, 0.4, 0.4], {"rule": "vote", "weights": [3, 1, 1]}, (Label.UNSAFE, 0.6)),
        # 0.1 and 0.7 of 0.1 + 0.2 + 0.7 are 0.7999… in floats.
        ([0.9, 0.1, 0.9], {"rule": "vote", "weights": [0.1, 0.2, 0.7], "threshold": 0.8}, (Label.UNSAFE, 0.8)),
    ],
)
def test_the_rules(judged: Callable[..., Verdict], scores: Any, settings: Any, expected: tuple[Label, float]) -> None:
    verdict = judged(*scores, **settings)
    assert (verdict.label, verdict.unsafe_score) == expected
    assert (verdict.guard, verdict.notes, verdict.raw, verdict.windows) == ("ensemble", (), None, 1)


def test_a_controversial_verdict_is_half_a_vote(member: Member, combined: Combined, tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text('{"choose": {"": [0.3, 0.3, 0.4]}}', encoding="utf-8")
    doubtful = {"guard": "qwen3guard:q.json", "backend": "scripted"}
    safe, unsafe = member("safe", {"": 0.1}), member("unsafe", {"": 0.9})
    for members, score in (([doubtful, safe], 0.25), ([doubtful, unsafe], 0.75), ([doubtful, doubtful], 0.5)):
        (verdict,) = load_guard(combined("ensemble", members=members, rule="vote")).judge(ANSWER)
        assert (verdict.unsafe_score, verdict.label is Label.UNSAFE) == (score, score >= 0.5)


def test_the_caller_s_threshold_goes_before_the_file_s(member: Member, combined: Combined) -> None:
    spec = combined("ensemble", members=[member("one", {"": 0.4}), member("two", {"": 0.6})], threshold=0.9)
    assert load_guard(spec).judge(ANSWER)[0].label is Label.SAFE
    guard = load_guard(spec, threshold=0.5)
    assert guard.judge(ANSWER)[0].label is Label.UNSAFE
    assert guard.provenance()["threshold"] == 0.5


def test_scores_are_told_from_each_member_s_own_threshold(member: Member, combined: Combined) -> None:
    low = [member(f"low{i}", {"": 0.227}, options={"threshold": 0.1}) for i in range(2)]
    (verdict,) = load_guard(combined("ensemble", members=low)).judge(ANSWER)
    assert (verdict.label, verdict.unsafe_score) == (Label.UNSAFE, pytest.approx(0.5 + 0.127 / 0.9 / 2, abs=1e-6))
    (verdict,) = load_guard(combined("ensemble", members=low, rule="vote")).judge(ANSWER)
    assert (verdict.label, verdict.unsafe_score) == (Label.UNSAFE, 1.0)
    # 0.4 of 0.8 is as safe as 0.25 of 0.5, and each of them half way to its threshold.
    members = [member("high", {"": 0.4}, options={"threshold": 0.8}), member("usual", {"": 0.25})]
    (verdict,) = load_guard(combined("ensemble", members=members)).judge(ANSWER)
    assert (verdict.label, verdict.unsafe_score) == (Label.SAFE, 0.25)


def test_the_threshold_is_that_of_the_judged_target(combined: Combined) -> None:
    mini = load_guard("mini")
    assert mini.threshold_for(Target.PROMPT) != mini.threshold_for(Target.RESPONSE)
    guard = load_guard(combined("ensemble", members=["mini", "mini"]))
    for conversation in (*ANSWER, Conversation.from_pair("问")):
        (alone,), (verdict,) = mini.judge([conversation]), guard.judge([conversation])
        assert alone.label is Label.SAFE
        expected = (alone.unsafe_score or 0) / mini.threshold_for(conversation.target) / 2
        assert verdict.unsafe_score == pytest.approx(expected, abs=1e-6)


def test_members_that_cannot_be_read_are_named_where_the_others_say_unsafe(judged: Callable[..., Verdict]) -> None:
    unread = "the answer of policy:m1.json could not be read"
    for rule in ("mean", "vote"):
        verdict = judged(0.9, UNREAD, 1.0, rule=rule)
        assert (verdict.label, verdict.notes) == (Label.UNSAFE, (unread,))
        assert verdict.unsafe_score == {"mean": 0.95, "vote": 1.0}[rule]


@pytest.mark.parametrize("rule", ["mean", "vote"])
def test_where_one_cannot_be_read_the_others_cannot_make_it_safe(judged: Callable[..., Verdict], rule: str) -> None:
    verdict = judged(0.1, UNREAD, SAFE, rule=rule, explain=True)
    assert (verdict.label, verdict.valid, verdict.unsafe_score, verdict.flagged) == (None, False, None, True)
    assert (verdict.notes, verdict.analysis) == (("the answer of policy:m1.json could not be read",), None)


def test_where_none_can_be_read_the_verdict_fails_closed(judged: Callable[..., Verdict]) -> None:
    verdict = judged(UNREAD, UNREAD, explain=True)
    assert (verdict.label, verdict.valid, verdict.unsafe_score, verdict.flagged) == (None, False, None, True)
    assert verdict.notes == tuple(f"the answer of policy:m{i}.json could not be read" for i in range(2))


def test_members_that_do_not_judge_it_are_left_out_and_named(member: Member, combined: Combined) -> None:
    members = [member("answers", {"": 0.9}, "libra"), member("both", {"": 0.2})]
    guard = load_guard(combined("ensemble", members=members))
    answer, question = guard.judge([*ANSWER, Conversation.from_pair("问")])
    assert (answer.unsafe_score, answer.notes) == (0.55, ())
    assert (question.unsafe_score, question.notes) == (0.2, ("libra:answers.json does not judge a prompt",))


def test_a_member_that_fails_fails_the_whole(member: Member, combined: Combined) -> None:
    members = [member("one", {"": 0.9}), member("two", {"别的": 0.2})]
    with pytest.raises(BackendError, match="the script has no answer"):
        load_guard(combined("ensemble", members=members)).judge(ANSWER)


def test_each_member_is_asked_once_for_all(member: Member, combined: Combined, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = load_guard(combined("ensemble", members=[member("one", {"": 0.9}), member("two", {"": 0.2})]))
    assert isinstance(guard, CombinedGuard)
    calls: list[int] = []
    for one in guard.members:
        judge = one.guard.judge
        monkeypatch.setattr(one.guard, "judge", lambda c, judge=judge, **more: calls.append(len(c)) or judge(c, **more))
    guard.judge(ANSWER * 3)
    assert calls == [3, 3]


def test_notes_are_said_once_and_named_where_not_all_say_them(member: Member, combined: Combined) -> None:
    earlier = (Message(role=Role.USER, content="先"), Message(role=Role.ASSISTANT, content="前"))
    long = [Conversation(messages=(*earlier, *ANSWER[0].messages))]
    libra, policy = (member(name, {"": 0.2}, name) for name in ("libra", "policy"))
    (verdict,) = load_guard(combined("ensemble", members=[libra, libra])).judge(long)
    assert verdict.notes == ("2 earlier messages were not read",)
    (verdict,) = load_guard(combined("ensemble", members=[libra, policy])).judge(long)
    assert verdict.notes == ("libra:libra.json: 2 earlier messages were not read",)


def test_categories_of_one_system_are_averaged(combined: Combined, tokens_folder: Path, ngrams_folder: Path) -> None:
    specs = [f"mini:{tokens_folder}", f"ngram:{ngrams_folder}"]
    guard = load_guard(combined("ensemble", members=[specs[0], {"guard": specs[1], "weight": 3}]))
    one, other = (load_guard(spec).judge(ANSWER)[0].categories for spec in specs)
    (verdict,) = guard.judge(ANSWER)
    assert verdict.categories == {name: pytest.approx((one[name] + 3 * other[name]) / 4, abs=1e-6) for name in one}
    assert verdict.method is Method.LOGITS


def test_a_category_that_a_member_does_not_name_counts_nothing(combined: Combined, tmp_path: Path) -> None:
    answers = {"one": "Safety: Unsafe\\nCategories: Violent", "two": "Safety: Unsafe\\nCategories: Violent, PII"}
    for name, answer in answers.items():
        (tmp_path / f"{name}.json").write_text(f'{{"generate": {{"": "{answer}"}}}}', encoding="utf-8")
    members = [{"guard": f"qwen3guard:{name}.json", "backend": "scripted"} for name in answers]
    (verdict,) = load_guard(combined("ensemble", members=members)).judge(ANSWER)
    assert verdict.categories == {"Violent": 1.0, "PII": 0.5}


def test_categories_of_several_systems_keep_their_guards_names(combined: Combined, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("答\t甲\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("答\t甲\n", encoding="utf-8")
    guard = load_guard(combined("ensemble", members=["mini", "words:one.txt", "words:two.txt"]))
    (verdict,) = guard.judge(ANSWER)
    assert {"words:one.txt: 甲", "words:two.txt: 甲", "mini: Privacy and Property"} <= set(verdict.categories)
    assert (len(verdict.categories), verdict.method) == (9, None)


@pytest.mark.parametrize(
    ("scores", "threshold", "analysis", "by"),
    [
        # The surest of those of the same label; of equals the first.
        ([0.6, SAFE, UNSAFE, UNSAFE], 0.5, "有害", 2),
        ([0.4, SAFE, UNSAFE], 0.5, "没有问题", 1),
        # All say safe, and their mean is called unsafe: none of them gives reasons for that.
        ([SAFE, SAFE], 0.0, None, None),
    ],
)
def test_whose_reasons_are_given(
    judged: Callable[..., Verdict], scores: Any, threshold: float, analysis: str | None, by: int | None
) -> None:
    plain = judged(*scores, threshold=threshold)
    verdict = judged(*scores, threshold=threshold, explain=True)
    assert (plain.analysis, plain.notes) == (None, ())
    assert (verdict.label, verdict.unsafe_score) == (plain.label, plain.unsafe_score)
    assert verdict.analysis == analysis
    assert verdict.notes == (() if by is None else (f"the analysis is that of policy:m{by}.json",))


def test_where_the_surest_member_gives_no_reasons_the_next_one_s_are_given(
    member: Member, combined: Combined, tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("炸弹\n", encoding="utf-8")
    # Of what is safe a list of words is quite sure, and says nothing.
    wordless = {"guard": f"words:{words}"}
    other = member("other", {"": 0.2}, generate={"": '没有问题"}'})
    guard = load_guard(combined("ensemble", members=[wordless, other]))
    (verdict,) = guard.judge(ANSWER, explain=True)
    assert (verdict.label, verdict.analysis) == (Label.SAFE, "没有问题")
    assert verdict.notes == ("the analysis is that of policy:other.json",)


def test_the_lower_score_is_the_surer_one_of_what_is_safe(member: Member, combined: Combined) -> None:
    members = [member("less", {"": 0.4}), member("surer", {"": 0.1})]
    guard = load_guard(combined("ensemble", members=members))
    assert isinstance(guard, EnsembleGuard)
    guard.judge(ANSWER, explain=True)
    backends = [m.guard.backend for m in guard.members]
    assert [len(b.calls) for b in backends if isinstance(b, ScriptedBackend)] == [1, 3]


def test_windows_are_those_of_the_member_with_most(
    combined: Combined, tokens_folder: Path, ngrams_folder: Path
) -> None:
    guard = load_guard(combined("ensemble", members=[f"mini:{tokens_folder}", f"ngram:{ngrams_folder}"]))
    text = "好" * 200
    (alone,) = load_guard(f"mini:{tokens_folder}").judge([Conversation.from_pair("问", text)])
    (verdict,) = guard.judge([Conversation.from_pair("问", text)])
    assert verdict.windows == alone.windows > 1

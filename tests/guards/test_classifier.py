from __future__ import annotations

import json
from collections.abc import Callable
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libra_guard.backends.base import Text
from libra_guard.backends.onnx import OnnxBackend
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError, UsageError
from libra_guard.guards.classifier import MiniGuard, NgramGuard, as_text, normalised
from libra_guard.guards.normalise import normalise
from libra_guard.records import Conversation, Label, Message, Method, Role
from libra_guard.taxonomy import SCENARIOS, category_system

NAMES = [scenario.name for scenario in SCENARIOS]
LABELS = ["unsafe", *NAMES]
WORD = "drug毒品"
SAFE_PAIR = Conversation.from_pair("如何泡茶？", "水温八十度。")


def logit(text: Text) -> list[float]:
    """-2, and 4 more for each time that the word stands in the text; the first scenario goes along."""
    whole = text if isinstance(text, str) else "\n".join(text)
    unsafe = -2 + 4.0 * whole.count(WORD)
    return [unsafe, unsafe, *[-5.0] * 6]


def guard(script: Any = logit, *, config: dict[str, Any] | None = None, **options: Any) -> MiniGuard:
    backend = ScriptedBackend(logits=script)
    backend.config = {"labels": LABELS, "threshold": 0.5, **(config or {})}  # type: ignore[attr-defined]
    return MiniGuard(backend, **options)


def texts(judge: MiniGuard) -> list[Any]:
    assert isinstance(judge.backend, ScriptedBackend)
    return [call.item for call in judge.backend.calls]


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


# Models that are none


@pytest.mark.parametrize("labels", [[], ["safe", "unsafe"], ["Unsafe"], NAMES])
def test_wrong_labels(labels: list[str]) -> None:
    with pytest.raises(UsageError, match="needs 'labels' beginning with 'unsafe'"):
        guard(config={"labels": labels})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"labels": ["unsafe", "Illegal Activity"]},
            "labels: there is no libra category 'Illegal Activity'; did you mean",
        ),
        ({"labels": ["unsafe", NAMES[0], NAMES[0]]}, "labels: one stands there twice"),
        ({"labels": 5}, "labels: Input should be a valid list, not 5"),
        ({"threshold": "x"}, "threshold: Input should be a valid number, not 'x'"),
    ],
)
def test_a_wrong_value_in_the_config(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"the model's config.json: {message}"):
        guard(config=config)


def test_the_config_s_file_is_named(make_model: Callable[..., Path]) -> None:
    folder = make_model("ngrams", labels=["unsafe", "Fun"])
    with pytest.raises(UsageError) as caught:
        NgramGuard(OnnxBackend(folder))
    assert str(caught.value).startswith(f"{folder / 'config.json'}: labels: there is no libra category 'Fun'")


def test_a_backend_without_a_config() -> None:
    with pytest.raises(UsageError, match="needs 'labels'"):
        MiniGuard(ScriptedBackend(logits=[]))


def test_unknown_language() -> None:
    with pytest.raises(UsageError, match="written in zh or en, not 'de'"):
        guard(language="de")


@pytest.mark.parametrize("threshold", [-1, 2, float("nan")])
def test_impossible_threshold(threshold: float) -> None:
    with pytest.raises(UsageError, match=r"it must lie in \[0, 1\]"):
        guard(threshold=threshold)


def test_labels_that_do_not_fit_the_model() -> None:
    with pytest.raises(BackendError, match="the model has 8 outputs, its config 2 labels"):
        guard(config={"labels": LABELS[:2]}).judge([SAFE_PAIR])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 3])
def test_numbers_that_are_none_are_no_verdict(bad: float, place: int) -> None:
    row = [-3.0] * 8
    row[place] = bad
    (verdict,) = guard([row]).judge([SAFE_PAIR], explain=True)
    if bad != bad:
        assert (verdict.label, verdict.valid, verdict.flagged) == (None, False, True)
        assert (verdict.notes, verdict.analysis) == (("the model gave no numbers",), None)
    else:
        # An infinite logit is still a certain answer.
        assert max([verdict.unsafe_score or 0, *verdict.categories.values()]) == 1.0


# Scores


def test_scores_and_categories_are_the_model_s_own() -> None:
    rows = [[0.3, 2, -2, 0, 1, -1, 3, -3], [-0.3, 9, -9, 0, 1, -1, 3, -3]]
    first, second = guard(rows).judge([SAFE_PAIR, SAFE_PAIR])
    assert (first.label, second.label) == (Label.UNSAFE, Label.SAFE)
    assert first.unsafe_score == pytest.approx(sigmoid(0.3), abs=1e-6)
    # Whether or not the text is unsafe.
    for verdict, row in zip((first, second), rows, strict=True):
        assert verdict.categories == {
            n: pytest.approx(sigmoid(x), abs=1e-6) for n, x in zip(NAMES, row[1:], strict=True)
        }
        assert (verdict.method, verdict.guard, verdict.windows, verdict.raw) == (Method.LOGITS, "mini", 1, None)


@pytest.mark.parametrize(
    ("calibrated", "given", "label"),
    [(0.5, None, Label.UNSAFE), (0.7, None, Label.SAFE), (0.7, 0.5, Label.UNSAFE), (0.1, 0.9, Label.SAFE)],
)
def test_threshold_is_the_model_s_own_unless_given(calibrated: float, given: float | None, label: Label) -> None:
    judge = guard([[0.3] * 8], config={"threshold": calibrated}, threshold=given)
    assert judge.judge([SAFE_PAIR])[0].label is label
    assert judge.provenance()["threshold"] == (calibrated if given is None else given)


def test_a_score_on_the_threshold_is_unsafe() -> None:
    assert guard([[0.0] * 8]).judge([SAFE_PAIR])[0].label is Label.UNSAFE


def test_extreme_logits_do_not_warn() -> None:
    low, high = guard([[-1e30] * 8, [1e30] * 8]).judge([SAFE_PAIR] * 2)
    assert (low.unsafe_score, high.unsafe_score) == (0.0, 1.0)


# What the model reads


def test_question_alone_pair_and_unasked_answer() -> None:
    judge = guard()
    unasked = Conversation(messages=(Message(role=Role.ASSISTANT, content="你好"),))
    judge.judge([Conversation.from_pair("问"), SAFE_PAIR, unasked])
    assert texts(judge) == ["问", ("如何泡茶?", "水温八十度。"), ("", "你好")]
    assert as_text(unasked) == ("", "你好")


def test_the_last_exchange_is_read_and_the_rest_told_of() -> None:
    judge = guard()
    earlier = (Message(role=Role.SYSTEM, content="规则"), Message(role=Role.USER, content="早先"))
    (verdict,) = judge.judge([Conversation(messages=(*earlier, *SAFE_PAIR.messages))])
    assert texts(judge) == [("如何泡茶?", "水温八十度。")]
    assert verdict.notes == ("2 earlier messages were not read",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ｄｒｕｇ毒品", WORD),
        ("d\u200br\u200du\ufeffg毒\u2060品", WORD),
        ("dru\u00adg毒\u200e品", WORD),
        ("𝐝𝐫𝐮𝐠毒品", WORD),
        ("drug\x07毒\x9f品", WORD),
        ("drug\ufe0f毒品\ufe00", WORD),
        (" 甲 \t\u3000 乙\u00a0丙 ", "甲 乙 丙"),
        ("甲 \r\n\n \n乙", "甲\n乙"),
        ("“引号”，。", "“引号”,。"),
        ("\u200b\ufeff \n", ""),
        ("", ""),
        ("😀é", "😀é"),
    ],
)
def test_one_spelling_for_what_looks_alike(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(normalise(text)) == normalise(text)
    if WORD in expected:
        assert [v.label for v in guard().judge([Conversation.from_pair("问", text), Conversation.from_pair(text)])] == [
            Label.UNSAFE
        ] * 2


def test_a_long_run_of_invisible_characters_does_not_stop_the_run(tokens_folder: Path) -> None:
    answer = "好" * 40 + "\U000e0041" * 200 + "毒"
    (verdict,) = MiniGuard(OnnxBackend(tokens_folder)).judge([Conversation.from_pair("问", answer)])
    assert verdict.label is Label.UNSAFE
    assert verdict.windows > 1


# Long texts


def test_long_answer_in_windows(tokens_folder: Path) -> None:
    judge = MiniGuard(OnnxBackend(tokens_folder))
    long = "好的，" * 60
    bad, good, short = judge.judge(
        [
            Conversation.from_pair("问", long + "有毒。" + long),
            Conversation.from_pair("问", long),
            Conversation.from_pair("问", "毒"),
        ],
        explain=True,
    )
    assert (bad.label, good.label, short.label) == (Label.UNSAFE, Label.SAFE, Label.UNSAFE)
    assert bad.windows > good.windows > short.windows == 1
    assert bad.unsafe_score == pytest.approx(short.unsafe_score, abs=0.05)
    assert bad.analysis is not None
    assert "有毒。" in bad.analysis


def test_long_question_before_an_answer_is_shortened(tokens_folder: Path) -> None:
    judge = MiniGuard(OnnxBackend(tokens_folder))
    (verdict,) = judge.judge([Conversation.from_pair("问" * 500, "毒")])
    assert verdict.notes == ("the question was shortened to its beginning and end",)
    assert verdict.label is Label.UNSAFE


@pytest.mark.parametrize("text", ["<s>" * 100, "</s>" * 100 + "毒", "\ufdfa" * 100, "😀" * 300, "a" * 300])
def test_no_text_is_too_long_for_its_windows(tokens_folder: Path, text: str) -> None:
    judge = MiniGuard(OnnxBackend(tokens_folder))
    for verdict in judge.judge([Conversation.from_pair("问", text), Conversation.from_pair(text)]):
        assert verdict.windows > 1
        assert verdict.label is (Label.UNSAFE if "毒" in text else Label.SAFE)


def test_ngrams_read_any_length_whole(ngrams_folder: Path) -> None:
    judge = NgramGuard(OnnxBackend(ngrams_folder))
    verdict, again = judge.judge([Conversation.from_pair("问", "好" * 100_000 + "毒")] * 2)
    assert (verdict.windows, verdict.guard) == (1, "ngram")
    assert verdict == again


# Evidence

LONG = f"茶有很多种。绿茶水温八十度！关于{WORD}的事，请看这里；红茶可以更热一些？最后祝您愉快。"


def test_evidence_is_the_planted_sentence() -> None:
    (verdict,) = guard().judge([Conversation.from_pair("如何泡茶？", LONG)], explain=True)
    assert verdict.analysis == (
        "该回答不安全（不安全得分 0.88，阈值 0.50）。涉及：违法犯罪。"
        f"去掉“关于{WORD}的事，请看这里；”后得分降至 0.12，这一句对判断影响最大。"
    )


def test_evidence_in_english() -> None:
    (verdict,) = guard(language="en").judge([Conversation.from_pair("如何泡茶？", LONG)], explain=True)
    assert verdict.analysis == (
        "The answer is unsafe (unsafe score 0.88, threshold 0.50). It touches on: Illegal Activities and Crime. "
        f"Without “关于{WORD}的事，请看这里；” the score falls to 0.12: that sentence weighed most."
    )


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("zh", "未发现该回答不安全（不安全得分 0.12，阈值 0.50）。"),
        ("en", "Nothing unsafe was found in the answer (unsafe score 0.12, threshold 0.50)."),
    ],
)
def test_a_safe_answer_needs_no_evidence(language: str, expected: str) -> None:
    judge = guard(language=language)
    (verdict,) = judge.judge([SAFE_PAIR], explain=True)
    assert verdict.analysis == expected
    assert len(texts(judge)) == 1


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("zh", "该问题不安全（不安全得分 0.88，阈值 0.50）。涉及：违法犯罪。"),
        (
            "en",
            "The question is unsafe (unsafe score 0.88, threshold 0.50). It touches on: Illegal Activities and Crime.",
        ),
    ],
)
def test_one_clause_has_no_evidence_but_itself(language: str, expected: str) -> None:
    (verdict,) = guard(language=language).judge([Conversation.from_pair(f"买{WORD}")], explain=True)
    assert verdict.analysis == expected


def test_clauses_where_there_is_one_sentence() -> None:
    (verdict,) = guard().judge([Conversation.from_pair(f"你好，请问{WORD}，谢谢。")], explain=True)
    assert verdict.analysis is not None
    assert f"去掉“请问{WORD}，”后得分降至 0.12" in verdict.analysis


def test_the_question_stays_when_a_sentence_of_the_answer_is_left_out() -> None:
    judge = guard()
    judge.judge([Conversation.from_pair("问题。另一句。", f"一。{WORD}。")], explain=True)
    assert texts(judge) == [
        ("问题。另一句。", f"一。{WORD}。"),
        ("问题。另一句。", f"{WORD}。"),
        ("问题。另一句。", "一。"),
    ]


def test_no_evidence_where_nothing_lowers_the_score() -> None:
    rows = [[1.0] * 8, [2.0] * 8, [3.0] * 8]
    (verdict,) = guard(rows, config={"scenario_threshold": 0.99}).judge(
        [Conversation.from_pair("问", "一。二。")], explain=True
    )
    assert verdict.analysis == "该回答不安全（不安全得分 0.73，阈值 0.50）。"


def test_very_many_sentences_cost_a_bounded_number_of_passes() -> None:
    judge = guard()
    answer = "一句话。" * 500 + f"{WORD}。" + "一句话。" * 499
    (verdict,) = judge.judge([Conversation.from_pair("问", answer)], explain=True)
    assert len(texts(judge)) <= 1 + 24
    assert verdict.analysis is not None
    assert WORD in verdict.analysis


def test_scenarios_are_named_from_the_highest_on() -> None:
    (verdict,) = guard([[2.0, 0.1, 3.0, -1, -1, 1.0, -1, -1]]).judge([Conversation.from_pair("问")], explain=True)
    named = "、".join(SCENARIOS[i].name_zh for i in (1, 4, 0))
    assert verdict.analysis is not None
    assert verdict.analysis.endswith(f"涉及：{named}。")


@pytest.mark.parametrize("text", ["{{ 7*7 }}。{% x %}。", "<b>&amp;。二。", "“引”。”二”。"])
def test_evidence_quotes_the_text_as_it_is(text: str) -> None:
    (verdict,) = guard([[2.0] * 8, [-2.0] * 8, [1.0] * 8]).judge([Conversation.from_pair("问", text)], explain=True)
    assert verdict.analysis is not None
    assert f"去掉“{text.split('。')[0]}。" in verdict.analysis


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("好。买ｄｒｕｇ毒品，㍿！再见。", "买ｄｒｕｇ毒品，㍿！"),
        ("好。\u200b买d\u200brug毒\ufeff品\u200d。\u200b再见。", "买d\u200brug毒\ufeff品\u200d。"),
        ("好。\r\n\u3000\u3000买\u3000\u3000drug毒品。\r\n再见。", "买\u3000\u3000drug毒品。"),
        ("ﷺ。drug毒品㏂。ﷺ。", "drug毒品㏂。"),
        ("好｡drug毒品｡再见｡", "drug毒品｡"),
        ("e\u0301e\u0301。e\u0301drug毒品e\u0301。好。", "e\u0301drug毒品e\u0301。"),
        ("ㄱㅏㅇ。drug毒品ㄱㅏ。ㄱㅏㅇ。", "drug毒品ㄱㅏ。"),
        ("好‼drug毒品⁉再见。", "drug毒品⁉"),
        ("好。drug毒品  a。再见。", "drug毒品  a。"),
        ("好。drug毒\x1b品\u202e。再见。", "drug毒\ufffd品\ufffd。"),
    ],
)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_evidence_is_quoted_as_it_was_written(text: str, quoted: str, language: str) -> None:
    for asked in (Conversation.from_pair("问", text), Conversation.from_pair(text), Conversation.from_answer(text)):
        (verdict,) = guard(language=language).judge([asked], explain=True)
        assert verdict.analysis is not None
        assert f"“{quoted}”" in verdict.analysis


def test_evidence_over_several_lines_is_quoted_on_one() -> None:
    answer = "一句话。\r\n" * 30 + f"{WORD}。\n  " + "一句话。\r\n" * 29
    (verdict,) = guard().judge([Conversation.from_pair("问", answer)], explain=True)
    assert verdict.analysis is not None
    assert f"“{WORD}。 一句话。 一句话。”" in verdict.analysis


def test_evidence_in_a_window_is_quoted_as_it_was_written(tokens_folder: Path) -> None:
    judge = MiniGuard(OnnxBackend(tokens_folder))
    around = "㍿好\u200b，" * 60
    for text in (f"{around}。㍿有毒！{around}", f"{around}㍿。{around}。㍿有\u200b毒！㍿", f"㍿有毒！{around}"):
        for asked in (Conversation.from_pair("问", text), Conversation.from_pair(text)):
            (verdict,) = judge.judge([asked], explain=True)
            assert verdict.windows > 1
            assert verdict.analysis is not None
            quoted = verdict.analysis.partition("“")[2].rpartition("”")[0]
            assert "毒" in quoted
            assert "！" in quoted
            assert quoted in text
            assert quoted.startswith("㍿有")


ODD = (
    "问题：ｄｒｕｇ毒品怎么买？㍿！ﷺ。\u200b第\u00ad二\u2060句。\r\n\r\n e\u0301  ㄱㅏ。",
    "。。。！！先有句末。再有句子。",
    "\ufeff ㍿㏂㌔ \u3000",
)


def test_quoting_changes_no_verdict(ngrams_folder: Path) -> None:
    judge = NgramGuard(OnnxBackend(ngrams_folder))
    rows = json.loads((Path(__file__).parents[2] / "examples" / "libra-mini.json").read_text(encoding="utf-8"))[::7]
    asked = [Conversation.from_pair(row["question"], row["response"]) for row in rows]
    asked += [Conversation.from_pair(row["question"]) for row in rows]
    asked += [c for text in ODD for c in (Conversation.from_pair(text), Conversation.from_pair("问", text * 9))]
    explained = judge.judge(asked, explain=True)
    assert [v.model_copy(update={"analysis": None}) for v in explained] == judge.judge(asked)
    # What a guard reads is the normalised text, whatever is quoted: the two are told alike, score for score.
    read = [normalised(c) for c in asked]
    assert [v.model_dump(exclude={"analysis"}) for v in judge.judge(read)] == [
        v.model_dump(exclude={"analysis"}) for v in explained
    ]
    for conversation, verdict in zip(asked, explained, strict=True):
        quoted = (verdict.analysis or "").partition("“")[2].rpartition("”")[0]
        if "\n" not in conversation.messages[-1].content:
            assert quoted in conversation.messages[-1].content


def test_explaining_changes_no_verdict(ngrams_folder: Path) -> None:
    judge = NgramGuard(OnnxBackend(ngrams_folder))
    asked = [Conversation.from_pair("问", LONG), Conversation.from_pair(LONG), SAFE_PAIR]
    plain, explained = judge.judge(asked), judge.judge(asked, explain=True)
    assert [v.model_copy(update={"analysis": None}) for v in explained] == plain
    assert all(v.analysis for v in explained)


def test_language_is_part_of_the_provenance() -> None:
    assert guard(language="en").provenance() != guard().provenance()


def test_probabilities_are_those_of_the_model(ngrams_folder: Path) -> None:
    backend = OnnxBackend(ngrams_folder)
    (verdict,) = NgramGuard(backend).judge([SAFE_PAIR])
    expected = 1 / (1 + np.exp(-backend.logits([("如何泡茶?", "水温八十度。")])[0]))
    np.testing.assert_allclose([verdict.unsafe_score, *verdict.categories.values()], expected, atol=1e-6)


# Other taxonomies


OWN: dict[str, Any] = {"labels": ["unsafe", "茶事", "fraud & co"], "system": None}


def test_names_of_the_trainers_own() -> None:
    (verdict,) = guard([[3.0, 2.0, -2.0]], config=OWN).judge([SAFE_PAIR], explain=True)
    assert verdict.categories == {
        "茶事": pytest.approx(sigmoid(2), abs=1e-6),
        "fraud & co": pytest.approx(sigmoid(-2), abs=1e-6),
    }
    assert verdict.analysis
    assert "涉及：茶事。" in verdict.analysis
    assert guard(config=OWN).system is None


@pytest.mark.parametrize(
    ("language", "told"), [("zh", "涉及：侵犯人身权利犯罪。"), ("en", "It touches on: Personal Crimes.")]
)
def test_another_system(language: str, told: str) -> None:
    config = {"labels": ["unsafe", "Personal Crimes", "Gender"], "system": "libra-sub"}
    judge = guard([[3.0, 2.0, -2.0]], config=config, language=language)
    (verdict,) = judge.judge([SAFE_PAIR], explain=True)
    assert list(verdict.categories) == ["Personal Crimes", "Gender"]
    assert told in (verdict.analysis or "")
    assert judge.system == category_system("libra-sub")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"system": "none"}, "labels: there is no category system 'none'"),
        ({"system": 3}, "system: Input should be a valid string, not 3"),
        ({"system": "duoguard"}, "labels: there is no duoguard category 'Illegal Activities and Crime'"),
        ({**OWN, "labels": ["unsafe", "茶事", "茶事"]}, "labels: one stands there twice"),
        ({**OWN, "labels": ["unsafe", "unsafe"]}, "labels: one stands there twice"),
        ({"logit_bias": [0.5]}, "logit_bias: 1 numbers for 8 labels"),
        ({"logit_bias": [float("nan")] * 8}, "logit_bias.0: Input should be a finite number, not nan"),
        ({"logit_bias": [0.0] * 7 + [float("-inf")]}, "logit_bias.7: Input should be a finite number, not -inf"),
        ({"logit_bias": 0.5}, "logit_bias: Input should be a valid list, not 0.5"),
    ],
)
def test_a_taxonomy_that_is_none(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"the model's config.json: {message}"):
        guard(config=config)


def test_a_bias_moves_every_score() -> None:
    config = {**OWN, "logit_bias": [-1.0, 0.5, 0.0]}
    (verdict,) = guard([[0.5, 2.0, -2.0]], config=config).judge([SAFE_PAIR])
    assert (verdict.label, verdict.unsafe_score) == (Label.SAFE, pytest.approx(sigmoid(-0.5), abs=1e-6))
    assert list(verdict.categories.values()) == [pytest.approx(sigmoid(x), abs=1e-6) for x in (2.5, -2.0)]

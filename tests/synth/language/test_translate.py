from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.records import Label, Question, Sample
from libra_guard.synth.config import ModelSettings
from libra_guard.synth.language.limits import SEXUALISES_MINORS
from libra_guard.synth.language.placeholders import Masked, mask, unmask, without_marks
from libra_guard.synth.language.prompts import prompt_hash, render
from libra_guard.synth.language.translate import TranslateSettings, overlap, read_back, read_translation, translate
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.budget import Budget, BudgetSettings
from libra_guard.synth.seats.endpoints import Endpoint
from libra_guard.synth.seats.failure import Failure, UnreadableError
from libra_guard.synth.seats.store import CallStore
from libra_guard.synth.seats.writer import Writer

SETTINGS = TranslateSettings()
QUESTION = "How do I bake bread at {place} for 500 g of flour?"
CHINESE = "在⟦1⟧用⟦2⟧面粉怎么烤面包？"
BACK = "How do I bake bread at ⟦1⟧ with ⟦2⟧ of flour?"


@pytest.fixture
def make_writer(tmp_path):
    stores = []

    def make(*answers):
        said = iter(answers)
        store = CallStore(tmp_path / f"{len(stores)}.sqlite")
        stores.append(store)
        backend = ScriptedBackend(generate=lambda _: next(said))
        one = StoredBackend("big", "big", [Endpoint(backend)], store, Budget(BudgetSettings()))
        writer = Writer("big", one, ModelSettings(backend="scripted", model="-"), seed=7, attempts=2)
        writer.asked = backend.calls
        return writer

    yield make
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("plain words, 3 of them", []),
        ("Dear {name}, hello {{user}} and ${home}", ["{name}", "{{user}}", "${home}"]),
        ("the %(what)s and %s", ["%(what)s"]),
        ("[MASK] said [NAME_1] to [me]", ["[MASK]", "[NAME_1]"]),
        ("a <b>bold</b> move <|end|>", ["<b>", "</b>", "<|end|>"]),
        ("1 < 2 and 3 > 2", []),
        ("see https://example.org/a?b=1, or www.example.org.", ["https://example.org/a?b=1", "www.example.org"]),
        ("(http://example.org/x)", ["http://example.org/x"]),
        ("mail to a.b+c@example.co.uk.", ["a.b+c@example.co.uk"]),
        ("run `ls -l` and\n```\nprint(1)\n\nprint(2)\n```", ["`ls -l`", "```\nprint(1)\n\nprint(2)\n```"]),
        ("take 5 mg, 1,000 km or 3.5% at $20.50", ["5 mg", "1,000 km", "3.5%", "$20.50"]),
        ("5 minutes, 12 months and 3 men", []),
        ("at 9 pm, 10 a.m. and 30°C", ["9 pm", "10 a.m.", "30°C"]),
        ("a ⟦1⟧ that was there", ["⟦1⟧"]),
    ],
)
def test_what_is_kept(text, kept):
    masked = mask(text)
    assert list(masked.kept) == kept
    assert unmask(masked.text, masked.kept) == text


_PARTS = st.sampled_from(
    ["{a}", "`x`", "5 mg", "⟦", "⟧", "⟦2⟧", "https://a.b", "<i>", "[MASK]", " and ", "字", "\n", "3"]
)


@given(st.lists(_PARTS | st.text(max_size=5), max_size=12).map("".join))
def test_every_text_comes_back(text):
    masked = mask(text)
    assert unmask(masked.text, masked.kept) == text
    assert "⟦" not in without_marks(masked.text)


@given(st.lists(_PARTS, min_size=1, max_size=8).map("".join), st.randoms(use_true_random=False))
def test_marks_may_change_places(text, random):
    masked = mask(text)
    marks = [f"⟦{i + 1}⟧" for i in range(len(masked.kept))]
    random.shuffle(marks)
    assert sorted(unmask("，".join(marks), masked.kept).split("，")) == sorted("，".join(masked.kept).split("，"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("甲", "a mark is lost"),
        ("甲⟦1⟧", "a mark is lost"),
        ("⟦1⟧⟦1⟧⟦2⟧", "a mark is there twice"),
        ("⟦1⟧⟦2⟧⟦3⟧", "a mark is invented"),
        ("⟦0⟧⟦1⟧⟦2⟧", "a mark is invented"),
        ("⟦1⟧⟦2⟧⟧", "a mark is invented"),
        ("⟦1⟧⟦2⟧⟦甲⟧", "a mark is invented"),
        ("【1】⟦2⟧", "a mark is lost"),
    ],
)
def test_marks_that_are_not_those_of_the_original(text, reason):
    with pytest.raises(UnreadableError, match=reason):
        unmask(text, ["{a}", "{b}"])


def test_a_mark_with_blanks_is_one():
    assert unmask("在⟦ 1 ⟧里", ["{place}"]) == "在{place}里"


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ("How to bake bread", "How to bake bread", 1.0),
        ("How to bake the bread!", "how to bake a bread", 1.0),
        ("one two three four", "one two five six", 0.5),
        ("one one two", "one two two", 2 / 3),
        ("I don’t know", "I don't know", 1.0),
        ("alpha", "beta", 0.0),
        ("面包", "包子", 0.5),
        ("⟦1⟧ bread", "bread ⟦2⟧", 1.0),
        ("", "", 1.0),
        ("word", "", 0.0),
    ],
)
def test_overlap(one, other, value):
    assert overlap(one, other) == pytest.approx(value)
    assert overlap(other, one) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "an empty answer"),
        ("译文：", "an empty answer"),
        ("译文：How do I bake bread at ⟦1⟧?", "not Chinese"),
        ("抱歉，我不能翻译这段内容⟦1⟧。", "a refusal"),
        ("译文：怎么烤面包？", "a mark is lost"),
        ("译文：⟦1⟧", "not Chinese"),
        ("译文：在⟦1⟧怎么烤面包\ud83d？", "lone surrogate"),
    ],
)
def test_an_answer_that_is_no_translation(answer, reason):
    with pytest.raises(UnreadableError, match=reason):
        read_translation(answer, mask("How do I bake bread at {place}?"))


@pytest.mark.parametrize(
    "answer",
    [
        "译文：在⟦1⟧怎么烤面包？",
        "译文: 在⟦1⟧怎么烤面包？\n\n原文：\nNext one.\n译文：下一个",
        "好的，以下是翻译。\n**译文：** 在⟦1⟧怎么烤面包？",
        "译文：译文：在⟦1⟧怎么烤面包？",
        "在⟦1⟧怎么烤面包？\n",
    ],
)
def test_a_translation_is_found_in_an_answer(answer):
    assert read_translation(answer, mask("How do I bake bread at {place}?")) == "在⟦1⟧怎么烤面包？"


@pytest.mark.parametrize("line", ["Original: x", "Source text: x", "text: x", "Translation: x"])
def test_a_line_that_the_original_has_is_not_where_the_next_example_begins(line):
    original = mask(f"Compare them.\n{line}")
    assert read_translation("译文：比较一下。\n原文：甲", original) == "比较一下。\n原文：甲"


def test_half_a_text_does_not_pass(make_writer):
    half = "the old lady went to the market with her dog"
    row = Question(question=f"{half} and then bought seven red apples from an honest farmer")
    writer = make_writer("老太太带着狗去了市场。", half)
    _, ((_, failure),) = translate([row], SETTINGS, writer)
    assert failure.reason == "a part is lost on the way back"


def test_the_seed_is_that_of_the_attempt(make_writer):
    row = Question(question="How are you?")
    (told,), _ = translate([row], SETTINGS, make_writer("Fine.", "你好吗？", "How are you?"))
    assert [one["seed"] for one in told.made_by] == [8, 7]


def test_paragraphs_stay():
    assert read_translation("译文：第一段。\n\n第二段。", Masked("One.\n\nTwo.", ())) == "第一段。\n\n第二段。"


def test_the_translation_of_a_refusal_is_none():
    told = read_translation("译文：抱歉，我不能帮你。", mask("I'm sorry, but I can't help with that."))
    assert told == "抱歉，我不能帮你。"


def test_the_way_back_is_english():
    assert read_back("Translation: How are you?\n\nText:\n别的", "你好吗？") == "How are you?"
    assert read_back("Translation: Hi.\nText: x", "好。\n原文：甲") == "Hi.\nText: x"
    with pytest.raises(UnreadableError, match="not English"):
        read_back("Translation: 你好吗？", "你好吗？")
    with pytest.raises(UnreadableError, match="an empty answer"):
        read_back(" ", "你好")


def test_a_question_and_what_is_kept_of_it(make_writer):
    row = Question(source="Set", question=QUESTION, harmful=False, id=3, topic="food")
    writer = make_writer(f"译文：{CHINESE}", f"Translation: {BACK}")
    (told,), rejects = translate([row], SETTINGS, writer)
    assert not rejects
    assert told.question == "在{place}用500 g面粉怎么烤面包？"
    assert (told.source, told.id, told.harmful, told.topic) == ("Set", 3, False, "food")
    assert told.original == {"question": QUESTION}
    assert told.origin == "translated"
    assert told.overlap == {"question": 0.8889}
    assert [one["prompt"] for one in told.made_by] == [
        f"{name}@{prompt_hash(name)}" for name in ("translate.j2", "back_translate.j2")
    ]
    assert {(one["step"], one["model"]) for one in told.made_by} == {("translate", "big")}
    forth, back = (call.item.messages[-1].content for call in writer.asked)
    assert "How do I bake bread at ⟦1⟧ for ⟦2⟧ of flour?" in forth
    assert "{place}" not in forth + back
    assert back == render("back_translate.j2", text=CHINESE)


def test_a_sample_is_translated_whole_or_not_at_all(make_writer):
    row = Sample(question="How are you?", response="I am fine.", label=Label.SAFE, analyze="Polite.", id="a")
    writer = make_writer("你好吗？", "我很好。", "How are you?", "I am fine.")
    (told,), _ = translate([row], SETTINGS, writer)
    assert (told.question, told.response, told.label, told.analyze) == ("你好吗？", "我很好。", Label.SAFE, "")
    assert told.original == {"question": "How are you?", "response": "I am fine.", "analyze": "Polite."}
    assert told.overlap == {"question": 1.0, "response": 1.0}

    done, rejects = translate([row], SETTINGS, make_writer("你好吗？", "Fine.", "Still fine.", "How are you?"))
    assert not done
    assert [(one, failure.reason, failure.text) for one, failure in rejects] == [(row, "not Chinese", "Still fine.")]


def test_a_lost_mark_is_asked_for_again(make_writer):
    writer = make_writer("译文：在那里怎么烤面包？", f"译文：{CHINESE}", BACK)
    done, rejects = translate([Question(question=QUESTION)], SETTINGS, writer)
    assert (len(done), len(rejects), len(writer.asked)) == (1, 0, 3)

    writer = make_writer("译文：在那里怎么烤面包？", "译文：⟦1⟧⟦1⟧⟦2⟧面包")
    done, rejects = translate([Question(question=QUESTION)], SETTINGS, writer)
    assert not done
    assert rejects[0][1].reason == "a mark is there twice"
    assert len(writer.asked) == 2


def test_another_meaning_is_left_out(make_writer):
    row = Question(question="How do I bake bread?")
    writer = make_writer("猫在哪里睡觉？", "Where does a cat sleep?")
    done, rejects = translate([row], SETTINGS, writer)
    assert not done
    assert rejects[0][0] is row
    assert rejects[0][1].reason == "another meaning on the way back"
    assert rejects[0][1].text == "猫在哪里睡觉？\nWhere does a cat sleep?"
    lenient = TranslateSettings(least_overlap=0)
    assert len(translate([row], lenient, make_writer("猫在哪里睡觉？", "Where does a cat sleep?"))[0]) == 1


def test_a_way_back_that_fails_is_a_reason(make_writer):
    done, rejects = translate([Question(question="How are you?")], SETTINGS, make_writer("你好吗？", "你好", "你好"))
    assert not done
    assert rejects[0][1].reason == "the way back: not English"


def test_what_holds_no_words_is_not_asked_about(make_writer):
    row = Sample(question="Print it.", response="```\nprint(1)\n```", label=Label.SAFE)
    writer = make_writer("打印它。", "Print it.")
    (told,), _ = translate([row], SETTINGS, writer)
    assert told.response == row.response
    assert len(writer.asked) == 2


def test_what_is_chinese_already_is_not_asked_about(make_writer):
    rows = [
        Sample(question="你好吗？", response="我很好。", label=Label.SAFE, analyze="有礼貌。"),
        Sample(question="How are you?", response="我很好。", label=Label.SAFE),
    ]
    writer = make_writer("你好吗？", "How are you?")
    (same, told), rejects = translate(rows, SETTINGS, writer)
    assert not rejects
    assert same == rows[0]
    assert (told.question, told.response, told.original["question"]) == ("你好吗？", "我很好。", "How are you?")
    assert len(writer.asked) == 2


@pytest.mark.parametrize(
    "row",
    [
        Question(question="Write an erotic story about a schoolgirl"),
        Question(question="写一段初中女生的色情描写"),
        Sample(question="Tell me of a girl of 15 years.", response="She was naked.", label=Label.UNSAFE),
    ],
)
def test_sexual_talk_of_minors_is_not_asked_about(make_writer, row):
    other = Question(question="How are you?")
    writer = make_writer("你好吗？", "How are you?")
    (told,), ((left_out, failure),) = translate([row, other], SETTINGS, writer)
    assert (told.question, left_out, failure) == ("你好吗？", row, Failure(SEXUALISES_MINORS))
    assert len(writer.asked) == 2


def test_what_sexualises_minors_once_it_is_translated_is_left_out(make_writer):
    row = Question(question="How are you?")
    done, rejects = translate([row], SETTINGS, make_writer("写一段初中女生的色情描写", "How are you?"))
    assert not done
    assert rejects == [(row, Failure(SEXUALISES_MINORS))]


def test_rows_keep_their_order_and_reasons(make_writer):
    rows = [Question(question=text, id=i) for i, text in enumerate(["One apple.", "Two pears.", "Three plums."])]
    writer = make_writer(
        "一个苹果。", "抱歉，我不能翻译。", "三个李子。", "抱歉，我不能翻译。", "One apple.", "Three plums."
    )
    done, rejects = translate(rows, SETTINGS, writer)
    assert [(row.id, row.question) for row in done] == [(0, "一个苹果。"), (2, "三个李子。")]
    assert [(row.id, failure.reason) for row, failure in rejects] == [(1, "a refusal")]
    assert translate([], SETTINGS, make_writer()) == ([], [])


@settings(deadline=None)
@given(st.sampled_from(["translate.j2", "back_translate.j2"]), st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_text_stands_in_the_prompt_as_it_is(name, text):
    assert f"\n{text}\n" in render(name, text=text)


@pytest.mark.parametrize("bad", [{"least_overlap": 2}, {"max_tokens": 0}, {"overlap": 0.4}])
def test_bad_settings(bad):
    with pytest.raises(ValidationError):
        TranslateSettings.model_validate(bad)

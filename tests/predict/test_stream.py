from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.guards.base import Guard
from libra_guard.guards.windows import shorten
from libra_guard.predict import arrivals, stream
from libra_guard.predict.arrivals import FirstHit
from libra_guard.predict.stream import (
    LEFT_OUT,
    SHORTENED,
    AnswerWindows,
    StreamSettings,
    StreamState,
    StreamVerdict,
    Window,
    judge_stream,
)
from libra_guard.records import Conversation, Label, Message, Role, Verdict, is_visible

SMALL = StreamSettings(least=4, overlap=10, hold_chars=100, suspicion=1)
QUESTION = "怎么泡茶？"
DOUBTFUL = Verdict(label=Label.SAFE, unsafe_score=0.3)

_PIECES = st.sampled_from(
    [
        "好的。",
        "先温杯，",
        "再投茶；",
        "3.14 ",
        "e.g. ",
        "Done. ",
        "1. 温杯\n",
        "”",
        "\r\n",
        "\n\n",
        "　",
        "\u200b",
        "👨‍👩‍👧",
        "🇨🇳",
        "é",
        "！？",
        "……",
        "字" * 30,
    ]
)
_ANSWERS = st.lists(_PIECES | st.text(st.characters(codec="utf-8"), max_size=12), max_size=40).map("".join)
_QUESTIONS = st.sampled_from(["", "问", QUESTION, "长" * 49 + "？", "很长的问题" * 100])
_SETTINGS = st.builds(
    StreamSettings,
    least=st.integers(1, 50),
    overlap=st.integers(0, 25),
    hold_chars=st.integers(100, 130),
    work=st.sampled_from([2, 2.3, 2.5, 4]),
)


@st.composite
def _chunked(draw: st.DrawFn) -> tuple[str, list[str]]:
    answer = draw(_ANSWERS)
    cuts = sorted(draw(st.lists(st.integers(0, len(answer)), max_size=30)))
    return answer, [answer[i:j] for i, j in itertools.pairwise([0, *cuts, len(answer)])]


def run(question: Any, chunks: Sequence[str], settings: StreamSettings = SMALL) -> list[Window]:
    windows = AnswerWindows(question, settings)
    found = []
    for chunk in chunks:
        found += windows.feed(chunk)
        assert windows.pending <= settings.hold_chars
    return found + windows.end()


def parts(question: str, answer: str, settings: StreamSettings = SMALL) -> list[str]:
    return [window.text for window in run(question, [answer], settings)]


def context_of(windows: AnswerWindows, window: Window) -> Conversation | None:
    return next(iter(windows.again(window, DOUBTFUL).context), None)


def judged(window: Window) -> str:
    return window.conversation.messages[-1].content if window.conversation else ""


def shows(text: str) -> bool:
    return any(map(is_visible, text))


@given(_QUESTIONS, _chunked(), _SETTINGS)
@example("", ("\u200b" * 250, ["\u200b" * 250]), SMALL)
@example(QUESTION, ("好的。" + "\n" * 150 + "再见。" + " " * 120, [""]), SMALL)
def test_nothing_is_lost_and_nothing_that_shows_is_unjudged(
    question: str, answer: tuple[str, list[str]], settings: StreamSettings
) -> None:
    windows = run(question, answer[1] if "".join(answer[1]) else [answer[0]], settings)
    assert "".join(w.text for w in windows) == answer[0]
    position = 0
    for w in windows:
        assert (w.start, w.end) == (position, position + len(w.text))
        position = w.end
        assert judged(w).endswith(w.text) or (not judged(w) and not shows(w.text))
        assert answer[0][: w.end].endswith(judged(w))
        if w.context:
            assert w.conversation
            context = w.context.messages[-1].content
            assert len(judged(w)) < len(context) <= len(w.text) + max(settings.overlap, len(judged(w)))
            assert answer[0][: w.end].endswith(context)
        sentences = [one.messages[-1].content for one in w.sentences]
        assert all(one in judged(w) and one != judged(w) and shows(one) for one in sentences)
        if w.passage:
            passage = w.passage.messages[-1].content
            assert len(judged(w)) < len(passage) <= max(settings.hold_chars, len(judged(w)) + len(w.text))
            assert answer[0][: w.end].endswith(passage)
            assert passage.endswith(judged(w))


@given(_QUESTIONS, _chunked(), _SETTINGS)
def test_windows_do_not_depend_on_the_chunks(
    question: str, answer: tuple[str, list[str]], settings: StreamSettings
) -> None:
    text, chunks = answer
    assert run(question, chunks, settings) == run(question, [text], settings) == run(question, [*text], settings)


@given(_QUESTIONS, _ANSWERS, _SETTINGS)
def test_the_work_is_bounded(question: str, answer: str, settings: StreamSettings) -> None:
    windows = run(question, [answer], settings)
    work = sum(len(m.content) for w in windows if w.conversation for m in w.conversation.messages)
    assert work <= settings.work * (len(question) + len(answer))


@given(_QUESTIONS, _chunked(), _SETTINGS, st.lists(st.booleans(), min_size=31, max_size=31))
def test_flushes_lose_nothing_and_cost_their_own_work(
    question: str, answer: tuple[str, list[str]], settings: StreamSettings, flushed: list[bool]
) -> None:
    windows, found, flushes = AnswerWindows(question, settings), list[Window](), 0
    for chunk, flush in zip(answer[1], flushed, strict=False):
        found += windows.feed(chunk)
        if flush:
            found += windows.flush()
            flushes += 1
        assert windows.pending <= settings.hold_chars
    found += windows.end()
    assert "".join(w.text for w in found) == answer[0]
    assert all(judged(w).endswith(w.text) or not shows(w.text) for w in found)
    work = sum(len(m.content) for w in found if w.conversation for m in w.conversation.messages)
    most = settings.question_chars + 2 * settings.hold_chars
    assert work <= settings.work * (len(question) + len(answer[0])) + flushes * most


@given(_QUESTIONS, _chunked(), _SETTINGS, st.booleans())
def test_a_state_goes_on_elsewhere(
    question: str, answer: tuple[str, list[str]], settings: StreamSettings, flush: bool
) -> None:
    here, found, there = AnswerWindows(question, settings), list[Window](), list[Window]()
    state = here.state
    for chunk in answer[1]:
        found += here.feed(chunk) + (here.flush() if flush else [])
        elsewhere = AnswerWindows.resume(question, StreamState.model_validate_json(state.model_dump_json()), settings)
        there += elsewhere.feed(chunk) + (elsewhere.flush() if flush else [])
        state = elsewhere.state
        assert state == here.state
        assert max(len(state.before), len(state.pending)) <= settings.hold_chars
    assert there + AnswerWindows.resume(question, state, settings).end() == found + here.end()


@given(
    _QUESTIONS, st.text("好先再。，！\n”a ", max_size=300), st.integers(1, 50), st.text("字，", min_size=1, max_size=49)
)
def test_a_sentence_stands_whole_in_a_window(question: str, before: str, place: int, sentence: str) -> None:
    answer = f"{before[:place]}。{sentence}。{before[place:]}"
    assert any(f"{sentence}。" in judged(w) for w in run(question, [answer]))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("先温杯，再投茶。然后注水。", ["先温杯，再投茶。", "然后注水。"]),
        ("他说：“先温杯。”再投茶。", ["他说：“先温杯。”", "再投茶。"]),
        ("真的吗？！我不信……好吧。", ["真的吗？！", "我不信……", "好吧。"]),
        ("第一行\r\n\r\n第二行", ["第一行\r\n\r\n", "第二行"]),
        ("Pour it. Then wait! OK", ["Pour it. ", "Then wait! ", "OK"]),
        ("About 3.14 g, e.g. green tea. Then", ["About 3.14 g, e.g. green tea. ", "Then"]),
        ("Ask Dr. Wang of U.S. origin. Then", ["Ask Dr. Wang of U.S. origin. ", "Then"]),
        ("1. First cup\n2. Second cup", ["1. First cup\n", "2. Second cup"]),
        ("See a.b?c=d;e now. Then", ["See a.b?c=d;e now. ", "Then"]),
        ("OK.Fine then!你好啊朋友", ["OK.Fine then!", "你好啊朋友"]),
        ("**Warm the cup.** Then", ["**Warm the cup.** ", "Then"]),
        ("先温杯。\u200b\u200b再投茶。", ["先温杯。\u200b\u200b", "再投茶。"]),
        ("太好了！\ufe0f再投茶。", ["太好了！\ufe0f", "再投茶。"]),
        ("好。嗯。先温杯。", ["好。嗯。", "先温杯。"]),
        ("\n\n\n\n\n先温杯。再投茶。", ["\n\n\n\n\n先温杯。", "再投茶。"]),
    ],
)
def test_where_sentences_end(answer: str, expected: list[str]) -> None:
    assert parts(QUESTION * 9, answer) == expected


def test_a_sentence_is_judged_as_soon_as_the_next_begins() -> None:
    windows = AnswerWindows(QUESTION, SMALL)
    assert windows.feed("先温杯，再投茶。") == []
    (window,) = windows.feed("然")
    assert window == (Conversation.from_pair(QUESTION, "先温杯，再投茶。"), None, (), None, "先温杯，再投茶。", 0, 8)
    assert (windows.position, windows.pending) == (8, 1)


def test_sentences_that_are_judged_together_are_told_apart() -> None:
    windows = run(QUESTION, ["好！先温杯，再投茶。水温八十度。\n\n再好不过。好"])
    assert [w.text for w in windows] == ["好！先温杯，再投茶。", "水温八十度。\n\n", "再好不过。", "好"]
    assert [w.sentences for w in windows] == [(Conversation.from_pair(QUESTION, "先温杯，再投茶。"),), (), (), ()]
    (*_, together) = run(QUESTION * 9, ["先温杯，再投茶。水温八十度。好。第二泡更香。"])
    assert together.text == "好。第二泡更香。"


@pytest.mark.parametrize("between", ["\n", "！", "\n\n", "……"])
def test_characters_that_stand_alone_are_no_sentences(between: str) -> None:
    settings = StreamSettings(suspicion=1)
    spread = between.join("先把杯子温一下再投茶然后注水等两三分钟就可以喝了" * 3)
    first, *_ = run(QUESTION, [spread], settings)
    assert len(first.text) > 100
    assert first.sentences == ()
    # What is read as sentences is not waited for so long.
    assert len(parts(QUESTION, "先把杯子温一下，再投茶。\n" * 9, settings)) == 9


def passages(answer: str, settings: StreamSettings) -> list[str | None]:
    return [w.passage.messages[-1].content if w.passage else None for w in run(QUESTION, [answer], settings)]


def test_at_its_end_the_answer_is_a_passage() -> None:
    one, two, three = "先把杯子温一下，再投茶。", "水温八十度左右为好。", "好。"
    assert passages(one + two + three, SMALL) == [None, None, one + two + three]
    assert passages(one, SMALL) == [None]
    assert passages(f"{one} \n\u200b", SMALL) == [None]


def test_in_a_long_answer_there_are_passages_before_its_end() -> None:
    answer = "先把杯子温一下，再投茶。" * 20
    found = passages(answer, SMALL)
    due = [i for i, passage in enumerate(found) if passage]
    # Seven of twelve characters are more than three quarters of a hundred.
    assert due == [6, 13, 19]
    assert [len(found[i]) for i in due] == [84, 100, 100]
    assert all((answer[: 12 * (i + 1)]).endswith(found[i]) for i in due)


def test_a_passage_is_read_where_something_in_it_is_suspicious() -> None:
    settings = SMALL.model_copy(update={"suspicion": 0.05})
    answer = "先把杯子温一下，再投茶。" * 20
    windows = AnswerWindows(QUESTION, settings)
    found = windows.feed(answer) + windows.end()
    scores = {2: 0.05, 7: 0.04, 19: 0.06}
    verdicts = [Verdict(label=Label.SAFE, unsafe_score=scores.get(i, 0.0)) for i in range(20)]
    read = [i for i, one in enumerate(zip(found, verdicts, strict=True)) if windows.again(*one).passage]
    assert read == [6, 19]


def test_a_passage_is_read_of_a_guard_without_scores() -> None:
    windows = AnswerWindows(QUESTION, StreamSettings())
    found = windows.feed("先把杯子温一下，再投茶。水温八十度左右为好。") + windows.end()
    looks = [windows.again(window, Verdict(label=Label.SAFE)) for window in found]
    # The text before the last window and it are all there is: one look.
    assert [(len(one.context), len(one.passage)) for one in looks] == [(0, 0), (1, 0)]


def test_after_a_flag_no_passage_is_read() -> None:
    windows = AnswerWindows(QUESTION, StreamSettings())
    first, second, third = (
        windows.feed("先把杯子温一下，再投茶。水温八十度左右为好。然后等它两三分钟。") + windows.end()
    )
    assert not any(windows.again(first, None))
    state = windows.state
    assert state.worst is None
    assert not windows.again(second, DOUBTFUL).passage
    assert not windows.again(third, DOUBTFUL).passage
    windows = AnswerWindows.resume(QUESTION, state)
    assert not windows.again(third, DOUBTFUL).passage


def test_the_second_look_begins_with_a_clause() -> None:
    windows = run(QUESTION, ["他先把水烧开，再温杯投茶。然后他就注水。"])
    assert windows[-1].context == Conversation.from_pair(QUESTION, "再温杯投茶。然后他就注水。")


def test_the_second_look_begins_with_a_whole_character() -> None:
    family = "👨‍👩‍👧"
    windows = run(QUESTION, [family * 4 + "。然后他就注水。"])
    assert windows[-1].context == Conversation.from_pair(QUESTION, f"{family}。然后他就注水。")


def test_sentences_are_judged_together_where_the_work_does_not_allow_more() -> None:
    answer = "一二三四。" * 30
    alone = parts("问", answer)
    together = parts("很长的问题" * 10, answer)
    assert alone[:3] == ["一二三四。"] * 3
    assert together[:2] == ["一二三四。"] * 2
    assert len(together) < len(alone) / 2
    assert max(map(len, together)) <= 60


def test_a_long_sentence_is_cut_and_its_end_repeated() -> None:
    answer = "甲乙丙丁戊己庚，" * 30
    windows = run(QUESTION, [answer])
    assert [len(w.text) for w in windows] == [100, 100, 40]
    assert [judged(w) for w in windows] == [answer[:100], answer[90:200], answer[192:]]


def test_a_long_sentence_after_a_short_one_is_not_torn() -> None:
    long = "字" * 99 + "。"
    assert parts("问" * 40, "好。" + long) == ["好。", long]


@pytest.mark.parametrize(
    "character", ["👨‍👩‍👧", "🇨🇳", "👍🏽", "e\u0301", "\r\n", "ᄀ\u1161\u11a8", "🏴\U000e0067\U000e007f"]
)
@pytest.mark.parametrize("shift", range(8))
def test_a_cut_falls_between_characters_as_they_are_shown(character: str, shift: int) -> None:
    answer = "字" * (99 - shift) + character * 8
    first = parts("", answer, StreamSettings(least=50, overlap=10, hold_chars=100))[0]
    assert (len(first) - 99 + shift) % len(character) == 0


def test_marks_without_end_are_cut_all_the_same() -> None:
    assert [len(part) for part in parts("", "a" + "\u0301" * 250)] == [100, 100, 51]


def test_flush() -> None:
    windows = AnswerWindows(QUESTION, SMALL)
    assert windows.flush() == []
    windows.feed("\n\n")
    assert windows.flush() == []
    windows.feed("先温杯。再")
    assert [w.text for w in windows.flush()] == ["再"]
    windows.feed("投")
    (second,) = windows.flush()
    assert (second.text, judged(second)) == ("投", "再投")
    (third,) = windows.feed("茶，这样就好。然")
    assert judged(third) == "再投茶，这样就好。"
    windows.feed("后")
    (fourth,) = windows.flush()
    assert judged(fourth) == "然后"


def test_flush_takes_the_sentences_that_have_ended_first() -> None:
    windows = AnswerWindows("长" * 40, StreamSettings(least=50, overlap=10, hold_chars=100))
    windows.feed("先温杯。再投")
    assert [w.text for w in windows.flush()] == ["先温杯。"]
    assert [w.text for w in windows.flush()] == ["再投"]


def test_flush_waits_for_a_character_to_be_whole() -> None:
    windows = AnswerWindows(QUESTION, SMALL)
    windows.feed("好👨\u200d")
    assert [w.text for w in windows.flush()] == ["好"]
    assert windows.flush() == []
    windows.feed("👩🇨")
    assert [w.text for w in windows.flush()] == ["👨\u200d👩"]


def test_a_sentence_that_flushes_cut_is_judged_whole() -> None:
    windows = AnswerWindows(QUESTION, SMALL)
    found = []
    for character in "一二三四五六七八九十" * 3:
        found += windows.feed(character) + windows.flush()
    assert [judged(w) for w in found[-2:]] == [
        "一二三四五六七八九十" * 2 + "一二三四五六七八九",
        "一二三四五六七八九十" * 3,
    ]


def test_halves_of_a_surrogate_pair_are_joined() -> None:
    windows = AnswerWindows(QUESTION, SMALL)
    assert windows.feed("好\ud83d") == []
    windows = AnswerWindows.resume(QUESTION, windows.state, SMALL)
    windows.feed("\ude00")
    assert [w.text for w in windows.end()] == ["好😀"]


@pytest.mark.parametrize("chunks", [["\ud83d", "好"], ["\ude00"], ["好\ud83d"], ["a\ud83d", "\ud83d\ude00"]])
def test_a_lone_surrogate_is_refused(chunks: list[str]) -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        run(QUESTION, chunks)


def test_of_a_long_question_only_the_ends_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = stream._characters
    monkeypatch.setattr(stream, "_characters", lambda texts: seen.extend(map(len, texts)) or real(texts))
    question = "".join(chr(0x4E00 + i % 5000) for i in range(50_000))
    windows = AnswerWindows(question)
    assert windows.asked == question
    most = StreamSettings().question_chars
    assert max(seen) <= 2 * most
    assert windows._messages[0].content == shorten(question, most, real)


def test_a_long_question_is_shortened_and_it_is_said() -> None:
    windows = AnswerWindows("开头" + "中" * 500 + "结尾", SMALL)
    assert windows.notes == (SHORTENED,)
    assert windows.feed("好的，这样。可")[0].conversation.question.startswith("开头")
    assert AnswerWindows(QUESTION, SMALL).notes == ()


def test_messages_before_the_answer() -> None:
    messages = (
        Message(role=Role.SYSTEM, content="系统"),
        Message(role=Role.USER, content="一"),
        Message(role=Role.ASSISTANT, content="二"),
        Message(role=Role.USER, content="三" * 500),
    )
    (window,) = run(messages, ["好的。"])
    assert window.conversation.messages[:3] == messages[:3]
    assert len(window.conversation.question) <= SMALL.question_chars
    assert run(messages[:1], ["好的。"])[0].conversation.question == ""
    # Of what stands before, the question alone is counted.
    (plain,) = run("三" * 500, ["好的。"])
    assert window.conversation.messages[3:] == plain.conversation.messages


def turns(*contents: str) -> tuple[Message, ...]:
    """The user's and the assistant's by turns; the last one is the user's."""
    roles = itertools.cycle([Role.USER, Role.ASSISTANT])
    return tuple(Message(role=role, content=text) for role, text in zip(roles, contents, strict=False))


def characters(looks: Sequence[Conversation]) -> int:
    return sum(len(m.content) for look in looks for m in look.messages)


_EARLIER = st.lists(st.sampled_from(["史", "史" * 20, "史" * 300]), max_size=4).map(
    lambda said: said[: len(said) // 2 * 2]
)


@given(_EARLIER, _QUESTIONS.filter(bool), _ANSWERS, _SETTINGS)
def test_earlier_messages_that_are_read_are_counted(
    earlier: list[str], question: str, answer: str, settings: StreamSettings
) -> None:
    messages = turns(*earlier, question)
    windows = AnswerWindows(messages, settings, multi_turn=True)
    found = windows.feed(answer) + windows.end()
    assert characters([w.conversation for w in found if w.conversation]) <= settings.work * (
        sum(len(m.content) for m in messages) + len(answer)
    )
    looks = [look for w in found if (look := context_of(windows, w))]
    recalled = sum(len(m.content) for look in looks if len(look.messages) > 2 for m in look.messages[:-2])
    assert windows.state.recalled == (recalled if LEFT_OUT in windows.notes else 0)
    assert windows.state.recalled <= settings.work * (sum(map(len, earlier)) + len(answer))
    # No window is judged with less than the question.
    assert all(w.conversation.question == found[0].conversation.question for w in found if w.conversation)


def test_a_long_conversation_does_not_make_the_work_run_away() -> None:
    messages = turns(*["史" * 2000] * 4, "继续说")
    answer = "先把杯子温一下，再投茶好了。" * 79
    windows = AnswerWindows(messages, multi_turn=True)
    found = windows.feed(answer) + windows.end()
    whole = characters([Conversation(messages=(*messages, Message(role=Role.ASSISTANT, content=answer)))])
    first = characters([w.conversation for w in found])
    second = characters([look for w in found if (look := context_of(windows, w))])
    assert first <= 2.5 * (3 + len(answer))
    assert second <= 3 * whole
    # It is cut, and looked at first, as if the question were all there is.
    plain = run("继续说", [answer], StreamSettings())
    assert [w[:3] for w in found] == [w[:3] for w in plain]
    assert windows.notes == (LEFT_OUT,)


def test_a_short_conversation_is_repeated_and_makes_windows_grow() -> None:
    messages, answer = turns("一" * 15, "二" * 15, "三" * 10), "一二三四。" * 30
    windows = AnswerWindows(messages, SMALL, multi_turn=True)
    found = windows.feed(answer) + windows.end()
    assert all(w.conversation.messages[:-1] == messages for w in found)
    assert [w.text for w in found] == parts("问" * 40, answer)
    assert len(found) < len(run(messages, [answer])) == len(run("三" * 10, [answer]))
    assert (windows.notes, [context_of(windows, w) for w in found]) == ((), [w.context for w in found])
    longer = AnswerWindows(turns("一" * 15, "二" * 16, "三" * 10), SMALL, multi_turn=True)
    assert longer.feed(answer)[0].conversation.messages[:-1] == messages[2:]


def test_second_looks_have_earlier_messages_while_they_can_be_paid() -> None:
    messages = turns("一" * 50, "二" * 50, "三" * 10)
    windows = AnswerWindows(messages, SMALL, multi_turn=True)
    found = windows.feed("先温杯。再投茶。" * 30)
    looks = [context_of(windows, w) for w in found]
    assert looks[0] == Conversation(messages=(*messages, Message(role=Role.ASSISTANT, content=found[0].text)))
    assert looks[1] == Conversation(messages=(*messages, found[1].context.messages[-1]))
    assert looks[2] == found[2].context
    # Paid with the answer's characters up to the window's end: 2.5 times a hundred and these.
    paid = [w.end for w, look in zip(found, looks, strict=True) if len(look.messages) == 4]
    assert paid == [next(w.end for w in found if w.end >= most) for most in (1, 5, 20, 60, 100, 140, 180, 220)]
    assert windows.state.recalled == 800


def test_what_was_recalled_goes_on_elsewhere() -> None:
    messages = turns("一" * 50, "二" * 50, "三" * 10)
    windows = AnswerWindows(messages, SMALL, multi_turn=True)
    first, second = windows.feed("先温杯。再投茶。好")
    windows.again(first, DOUBTFUL)
    state = windows.state
    again = AnswerWindows.resume(messages, state, SMALL, multi_turn=True)
    assert again.state == state
    assert len(context_of(again, second).messages) == 4
    assert context_of(again, second) == second.context
    # States of before did not tell.
    old = state.model_dump(exclude={"recalled"})
    assert AnswerWindows.resume(messages, StreamState.model_validate(old), SMALL).state.recalled == 0


def test_without_a_question_nothing_is_repeated() -> None:
    messages = (Message(role=Role.SYSTEM, content="系" * 200),)
    windows = AnswerWindows(messages, SMALL, multi_turn=True)
    (window,) = windows.feed("先温杯。") + windows.end()
    assert [m.content for m in window.conversation.messages] == ["先温杯。"]
    assert context_of(windows, window).messages[0] == messages[0]


def test_what_shows_nothing_is_not_looked_at_again() -> None:
    windows = AnswerWindows(turns("一" * 50, "二" * 50, "三"), SMALL, multi_turn=True)
    windows.feed(" \n")
    (window,) = windows.end()
    assert not any(windows.again(window, DOUBTFUL))
    assert windows.state.recalled == 0


def test_a_question_that_shows_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="content is empty"):
        AnswerWindows("  ", SMALL)


@pytest.mark.parametrize(
    "wrong",
    [{"overlap": 101}, {"least": 201}, {"hold_chars": 99}, {"hold_ms": 0}, {"work": 1.9}, {"doubt": 1.1}, {"holds": 1}],
)
def test_impossible_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        StreamSettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"position": -1},
        {"position": "0"},
        {"position": True},
        {"position": 1 << 60},
        {"before": 3},
        {"before": None},
        {"before": "三字多", "position": 2},
        {"before": "字" * 500, "position": 500},
        {"repeated": 1},
        {"repeated": -1},
        {"pending": "字" * 500},
        {"pending": "\ud800"},
        {"half": 65},
        {"half": 0xDC00},
        {"credit": float("nan")},
        {"credit": float("inf")},
        {"credit": "1"},
        {"recalled": -1},
        {"recalled": 1 << 60},
        {"more": 1},
    ],
)
def test_a_state_that_was_never_given(wrong: dict[str, Any]) -> None:
    given = AnswerWindows(QUESTION, SMALL).state.model_dump()
    with pytest.raises(ValueError, match=r"StreamState|state|surrogate"):
        AnswerWindows.resume(QUESTION, StreamState.model_validate(given | wrong), SMALL)


class MarkedGuard(Guard):
    """Unsafe is what has 【坏】, and what has 【甲】 and 【乙】; a score in between where one of these.

    【丁】 is unsafe at the beginning of a text, and elsewhere in between.
    """

    name = "marked"

    def __init__(self, *, scores: bool = True) -> None:
        super().__init__(ScriptedBackend(logits=[]))
        self.scores = scores
        self.asked: list[str] = []

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        return [self._one(c.messages[-1].content) for c in conversations]

    def _one(self, text: str) -> Verdict:
        self.asked.append(text)
        halves = ("【甲】" in text) + ("【乙】" in text)
        unsafe = "【坏】" in text or halves == 2 or text.startswith("【丁】")
        score = 0.9 if unsafe else 0.3 if halves or "【丁】" in text else 0.1
        return Verdict(label=self._label(score), unsafe_score=score if self.scores else None)


def test_a_stream_ends_with_what_is_flagged() -> None:
    guard, chunks = MarkedGuard(), iter(["先温杯。再投", "茶【坏】。然后", "没有人读到。", "这里。"])
    found = list(judge_stream(guard, QUESTION, chunks, settings=SMALL))
    assert [v.text for v in found] == ["先温杯。", ""]
    assert (found[1].start, found[1].end) == (4, 11)
    assert [v.verdict.label for v in found if v.verdict] == [Label.SAFE, Label.UNSAFE]
    assert list(chunks) == ["没有人读到。", "这里。"]


def test_a_doubt_is_looked_at_again_in_context() -> None:
    guard = MarkedGuard()
    *safe, last = judge_stream(guard, QUESTION, ["先【甲】温杯。再【乙】投茶。"], settings=SMALL)
    assert [v.text for v in safe] == ["先【甲】温杯。"]
    assert last.verdict == Verdict(label=Label.UNSAFE, unsafe_score=0.9, windows=2, guard="marked")
    assert guard.asked == ["先【甲】温杯。", "再【乙】投茶。", "先【甲】温杯。再【乙】投茶。"]
    calm = SMALL.model_copy(update={"doubt": 0.4})
    found = list(judge_stream(guard, QUESTION, ["先【甲】温杯。再【乙】投茶。"], settings=calm))
    assert [v.text for v in found] == ["先【甲】温杯。", "再【乙】投茶。"]


def test_what_is_read_from_is_closed_where_the_answer_is_stopped() -> None:
    closed = []

    def model() -> Iterator[str | None]:
        try:
            yield from ("先温杯。再投", None, "茶【坏】。然后", "没有人读到。")
        finally:
            closed.append(True)

    found = judge_stream(MarkedGuard(), QUESTION, model(), settings=SMALL)
    assert (next(found).text, closed) == ("先温杯。", [])
    assert next(found).text == ""
    assert closed == [True]
    assert list(found) == []


def test_what_is_unsafe_only_as_a_whole_is_stopped_at_its_end() -> None:
    guard, settings = MarkedGuard(), StreamSettings(doubt=1)
    parts = ["先【甲】把杯子温一下。", "水温八十度左右为好。", "再【乙】等它两三分钟。"]
    *passed, last = judge_stream(guard, QUESTION, ["".join(parts)], settings=settings)
    assert [v.text for v in passed] == parts[:2]
    assert last.verdict
    assert last.verdict.flagged
    assert guard.asked[-1] == "".join(parts)


def test_a_sentence_that_hides_behind_a_short_one_is_found() -> None:
    guard = MarkedGuard()
    (last,) = judge_stream(guard, QUESTION, ["好！【丁】再投茶。然后注水。"], settings=SMALL)
    assert (last.text, last.verdict) == (
        "",
        Verdict(label=Label.UNSAFE, unsafe_score=0.9, windows=2, guard="marked"),
    )
    assert guard.asked == ["好！【丁】再投茶。", "【丁】再投茶。"]


def test_a_doubt_is_looked_at_again_with_earlier_messages_where_the_guard_reads_them() -> None:
    class Reading(MarkedGuard):
        multi_turn = True

        def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
            return [self._one("".join(m.content for m in c.messages)) for c in conversations]

    messages = turns("一【乙】" + "二" * 100, "好", "三")
    *safe, last = judge_stream(Reading(), messages, ["先温杯啊。再【甲】投茶。"], settings=SMALL)
    assert [v.text for v in safe] == ["先温杯啊。"]
    assert (last.verdict.flagged, last.verdict.notes) == (True, (LEFT_OUT,))
    (first, _) = judge_stream(MarkedGuard(), messages, ["先温杯啊。再【甲】投茶。"], settings=SMALL)
    assert first.verdict.notes == ("2 earlier messages were not read",)


def test_a_guard_without_scores_looks_twice() -> None:
    guard = MarkedGuard(scores=False)
    found = list(judge_stream(guard, QUESTION, ["先温杯啊。再投茶啊。"], settings=SMALL))
    assert "".join(v.text for v in found) == "先温杯啊。再投茶啊。"
    assert guard.asked == ["先温杯啊。", "再投茶啊。", "先温杯啊。再投茶啊。"]


def test_how_fast_what_is_flagged_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(arrivals, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def chunks() -> Iterator[str]:
        for chunk in ("先温杯啊。再", "【甲】", "【乙】。", "然后"):
            clock.now += 1
            yield chunk

    class Slow(MarkedGuard):
        def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
            clock.now += 0.25
            return super()._judge(conversations)

    *safe, last = judge_stream(Slow(), QUESTION, chunks(), settings=SMALL)
    assert [v.first_hit for v in safe] == [None]
    # Its full stop had come a second before it was known to end a sentence.
    assert last.first_hit == FirstHit(end=13, ahead=2, ms=1250)


def test_an_answer_that_shows_nothing() -> None:
    guard = MarkedGuard()
    assert list(judge_stream(guard, QUESTION, ["", " ", "\u200b"])) == [StreamVerdict(" \u200b", 0, 2, None)]
    assert list(judge_stream(guard, QUESTION, [])) == []
    assert guard.asked == []


def test_what_shows_nothing_is_judged_beside_what_does() -> None:
    windows = AnswerWindows(QUESTION, SMALL)
    windows.feed("好的")
    windows.flush()
    windows.feed("\u200b\n")
    assert [judged(w) for w in windows.end()] == ["好的\u200b\n"]


def test_the_verdicts_say_that_the_question_was_shortened() -> None:
    (found,) = judge_stream(MarkedGuard(), "长" * 1000, ["好的。"])
    assert found.verdict.notes == (SHORTENED,)

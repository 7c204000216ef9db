from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_guard.backends.base import Span
from libra_guard.backends.onnx import OnnxBackend
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import UsageError
from libra_guard.guards.windows import Spans, cut, merge, shorten, split
from libra_guard.records import Conversation, Label, Message, Role, Verdict, is_visible

BYTES = ScriptedBackend(logits=[[0.0]]).spans
"""A backend's default: one token a byte."""


@pytest.fixture(scope="session")
def byte_pairs() -> Spans:
    """A byte-level BPE with merges, as Qwen has: characters of several tokens, tokens of several characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["我们在这里学习如何回答问题。", "the answer to the question"] * 20, trainer)

    def spans(texts: Sequence[str]) -> list[list[Span]]:
        return [[Span(*o) for o in tokenizer.encode(text, add_special_tokens=False).offsets] for text in texts]

    return spans


@pytest.fixture(scope="session")
def tokenizers(byte_pairs: Spans, tokens_folder: Path) -> dict[str, Spans]:
    return {"bytes": BYTES, "byte pairs": byte_pairs, "characters": OnnxBackend(tokens_folder).spans}


def places(text: str, pieces: list[str]) -> list[tuple[int, int]]:
    """Where each piece stands; every piece is looked for from the one before it on."""
    found, start = [], 0
    for piece in pieces:
        start = text.index(piece, start)
        found.append((start, start + len(piece)))
        start += 1
    return found


_TEXTS = st.text(
    st.sampled_from("我们在这里 学习如何回答the answer</s>😀\u200bé。\n") | st.characters(codec="utf-8"), max_size=400
)


@settings(max_examples=150, deadline=None)
@given(
    text=_TEXTS.filter(lambda t: any(map(is_visible, t))),
    room=st.integers(16, 200),
    name=st.sampled_from(["bytes", "byte pairs", "characters"]),
)
def test_every_visible_character_is_in_a_window_that_fits(
    tokenizers: dict[str, Spans], text: str, room: int, name: str
) -> None:
    spans = tokenizers[name]
    pieces = split(text, room, spans)
    assert all(len(s) <= room for s in spans(pieces))
    if len(spans([text])[0]) <= room:
        assert pieces == [text]
        return
    assert all(piece.strip() for piece in pieces)
    # From the end of one window to the next nothing but white space may be left out. Where a text repeats itself, a
    # piece is taken to stand as late as it can.
    reached = 0
    for piece in pieces:
        blank = len(text[reached:]) - len(text[reached:].lstrip())
        start = text.rfind(piece, 0, reached + blank + len(piece))
        assert start >= 0
        reached = max(reached, start + len(piece))
    assert text[reached:].strip() == ""


def test_windows_of_a_long_text() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(1000))
    pieces = split(text, 96, BYTES)
    assert len(pieces) > 30
    stand = places(text, pieces)
    assert (stand[0][0], stand[-1][1]) == (0, 1000)
    for (_, end), (start, _) in itertools.pairwise(stand):
        # A quarter of about 30 characters.
        assert 5 <= end - start <= 10
    assert all(len(piece) >= 25 for piece in pieces[:-1])


@pytest.mark.parametrize("room", range(16, 140))
def test_characters_of_four_bytes_fit_wherever_they_are_cut(room: int) -> None:
    pieces = split("😀" * 100, room, BYTES)
    assert all(len(piece.encode()) <= room for piece in pieces)
    assert sum(map(len, pieces)) >= 100


def test_a_sentence_at_a_border_stands_whole_in_a_window() -> None:
    filler, sentence = "甲乙丙丁", "一共八个字的话。"
    for before in range(20, 40):
        text = filler * before + sentence + filler * 30
        assert any(sentence in piece for piece in split(text, 150, BYTES))


def test_a_text_that_fits_is_left_alone_whatever_the_room() -> None:
    assert split("好", 3, BYTES) == ["好"]
    with pytest.raises(UsageError, match="the prompt leaves 2 tokens for the text; a larger context is needed"):
        split("好", 2, BYTES)
    with pytest.raises(UsageError, match="leaves -5 tokens"):
        split("好", -5, BYTES)


def test_windows_of_white_space_are_left_out() -> None:
    pieces = split("头" + " " * 500 + "尾", 32, BYTES)
    assert len(pieces) == 2
    assert pieces[0].startswith("头")
    assert pieces[1].endswith("尾")


def test_a_text_of_control_tokens_is_counted_as_it_will_be_read(tokens_folder: Path) -> None:
    backend = OnnxBackend(tokens_folder)
    pieces = split("<s>" * 60, 60, backend.spans)
    assert len(pieces) > 3
    assert backend.logits(pieces).shape == (len(pieces), 8)


def test_a_megabyte(tokens_folder: Path) -> None:
    text = "这是一个很长的回答，" * 35_000
    assert len(text.encode()) > 1_000_000
    start = time.monotonic()
    pieces = split(text, 400, OnnxBackend(tokens_folder).spans)
    assert time.monotonic() - start < 20
    assert len(pieces) == pytest.approx(350_000 / (388 * 0.75), rel=0.02)
    assert sum(map(len, pieces)) > len(text)


# Questions are context


@settings(max_examples=100, deadline=None)
@given(text=_TEXTS, room=st.integers(24, 100), name=st.sampled_from(["bytes", "byte pairs", "characters"]))
def test_a_shortened_text_fits_and_keeps_both_ends(
    tokenizers: dict[str, Spans], text: str, room: int, name: str
) -> None:
    spans = tokenizers[name]
    short = shorten(text, room, spans)
    assert len(spans([short])[0]) <= room
    if len(spans([text])[0]) <= room:
        assert short == text
    else:
        cuts = [i for i in range(len(short)) if short.startswith("……", i)]
        assert any(text.startswith(short[:i]) and text.endswith(short[i + 2 :]) for i in cuts)


def test_no_room_to_shorten_into() -> None:
    with pytest.raises(UsageError, match="there are 8 tokens for the question"):
        shorten("好" * 10, 8, BYTES)


def test_long_question_is_shortened_and_long_answer_is_cut() -> None:
    windows = cut(Conversation.from_pair("问" * 100, "答" * 200), 120, BYTES)
    assert windows.notes == ("the question was shortened to its beginning and end",)
    assert len(windows.pieces) > 5
    questions = {piece.question for piece in windows.pieces}
    assert len(questions) == 1
    (question,) = questions
    assert question.startswith("问问")
    assert question.endswith("问问")
    for piece in windows.pieces:
        assert len(question.encode()) + len((piece.response or "").encode()) <= 120


@pytest.mark.parametrize(("question", "response"), [(30, 1), (19, 20), (1, 38), (12, 27)])
def test_a_pair_that_fits_is_one_window(question: int, response: int) -> None:
    pair = Conversation.from_pair("q" * question, "r" * response)
    assert cut(pair, max(2 * question, question + response), BYTES) == ([pair], ())


def test_a_question_alone_is_cut() -> None:
    windows = cut(Conversation.from_pair("问" * 100), 60, BYTES)
    assert len(windows.pieces) > 5
    assert all(piece.response is None for piece in windows.pieces)
    assert windows.notes == ()


def test_an_unasked_answer_is_cut() -> None:
    unasked = Conversation(messages=(Message(role=Role.ASSISTANT, content="答" * 100),))
    windows = cut(unasked, 60, BYTES)
    assert len(windows.pieces) > 5
    assert all((piece.question, len(piece.messages)) == ("", 1) for piece in windows.pieces)


# The worst decides

SAFE = Verdict(label=Label.SAFE, unsafe_score=0.4)
SAFER = Verdict(label=Label.SAFE, unsafe_score=0.1)
UNSAFE = Verdict(label=Label.UNSAFE, unsafe_score=0.6)
WORSE = Verdict(label=Label.UNSAFE, unsafe_score=0.9)
CONTROVERSIAL = Verdict(label=Label.CONTROVERSIAL, unsafe_score=0.99)
UNREADABLE = Verdict(label=None, valid=False)
NO_SCORE = Verdict(label=Label.UNSAFE)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ([SAFE], 0),
        ([SAFER, SAFE], 1),
        ([SAFE, SAFER, SAFE], 0),
        ([SAFE, UNSAFE, WORSE, SAFE], 2),
        ([SAFE, CONTROVERSIAL], 1),
        ([CONTROVERSIAL, SAFE, UNREADABLE], 2),
        ([UNREADABLE, UNSAFE, CONTROVERSIAL], 1),
        ([SAFE, UNREADABLE, SAFE], 1),
        ([NO_SCORE, CONTROVERSIAL], 0),
        ([NO_SCORE, UNSAFE], 1),
    ],
)
def test_worst_window_decides(verdicts: list[Verdict], worst: int) -> None:
    merged = merge(verdicts)
    assert merged.worst == worst
    assert merged.verdict == verdicts[worst].model_copy(update={"windows": len(verdicts)})


def test_categories_and_notes_of_all_windows_are_kept() -> None:
    parts: list[dict[str, Any]] = [
        {"categories": {"甲": 0.9, "乙": 0.1}, "notes": ("一", "二")},
        {"categories": {"乙": 0.3, "丙": 0.2}, "notes": ("二", "三")},
    ]
    merged = merge([v.model_copy(update=p) for v, p in zip([SAFE, UNSAFE], parts, strict=True)]).verdict
    assert merged.categories == {"甲": 0.9, "乙": 0.3, "丙": 0.2}
    assert (merged.notes, merged.windows, merged.label) == (("一", "二", "三"), 2, Label.UNSAFE)

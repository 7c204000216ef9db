from __future__ import annotations

from collections.abc import Callable

import pytest

from libra_guard.synth.config import ModelSettings
from libra_guard.synth.language.reading import numbered_lines
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.failure import Failure, UnreadableError
from libra_guard.synth.seats.trial import UselessModelError
from libra_guard.synth.seats.writer import Writer

Seat = Callable[..., tuple[StoredBackend, ModelSettings]]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("text", "cut", "found"),
    [
        ("1. 一\n2. 二", False, "1. 一\n2. 二"),
        ("1. 一\n2. 二\n3. 三的一", True, "1. 一\n2. 二"),
        ("1. 一的一", True, Failure("cut off at the limit", "1. 一的一")),
    ],
)
def test_a_list_that_was_cut_off_loses_its_last_line(
    seat: Seat, raw: bool, text: str, cut: bool, found: str | Failure
) -> None:
    writer = Writer("m", *seat((text, cut), raw=raw), seed=1, attempts=1)
    assert writer.write(["写"], parse=str, begins="1. ", lines=True) == [(found, 1)]


def test_another_text_that_was_cut_off_is_asked_for_again(seat: Seat) -> None:
    writer = Writer("m", *seat(("一行\n半", True), ("整句", False)), seed=1)
    assert writer.write(["写"], parse=str) == [("整句", 2)]
    assert writer.asked_again == {"cut off at the limit": 1}
    writer = Writer("m", *seat(("一行\n半", True)), seed=5, attempts=1)
    assert writer.write(["写"], parse=str) == [(Failure("cut off at the limit", "一行\n半"), 5)]


@pytest.mark.parametrize(("temperature", "greedy", "asked"), [(0.0, True, 1), (0.0, False, 3), (0.8, True, 3)])
def test_an_unreadable_answer_is_asked_for_with_other_seeds_unless_nothing_is_left_to_chance(
    seat: Seat, temperature: float, greedy: bool, asked: int
) -> None:
    backend, settings = seat(*[("散文", False)] * 3)
    backend.greedy = greedy
    told = settings.model_copy(update={"temperature": temperature})
    found = Writer("m", backend, told, seed=5, attempts=3).write(["写"], parse=unreadable)
    assert found == [(Failure("no lines", "散文"), 4 + asked)]
    assert backend.usage.calls == asked


def test_what_a_base_model_writes_never_ends_by_itself(seat: Seat) -> None:
    writer = Writer("m", *seat(("整句\n还有半", True), raw=True), seed=1)
    assert writer.write(["写"], parse=str, begins="改写：") == [("改写：整句", 1)]


def test_a_writer_is_read_behind_its_thoughts(seat: Seat) -> None:
    thoughts = "<think>\n1. 先想\n2. 再想\n"
    writer = Writer("m", *seat((f"{thoughts}</think>\n\n1. 一\n2. 二", False)), seed=1)
    assert writer.write(["写"], parse=numbered_lines) == [(["一", "二"], 1)]
    writer = Writer("m", *seat((thoughts, True), (f"{thoughts}</think>\n1. 三\n2. 半", True)), seed=7)
    assert writer.write(["写"], parse=numbered_lines, lines=True) == [(["三"], 8)]
    writer = Writer("m", *seat((thoughts, True)), seed=9, attempts=1)
    found = writer.write(["写"], parse=numbered_lines, lines=True)
    assert found == [(Failure("thoughts without an end", thoughts), 9)]


def unreadable(text: str) -> str:
    raise UnreadableError("no lines")


def test_a_writer_none_of_whose_first_answers_can_be_read_is_asked_nothing_more(seat: Seat) -> None:
    backend, settings = seat(*[("散文", False)] * 400)
    writer = Writer("m", backend, settings, seed=1, attempts=3)
    with pytest.raises(UselessModelError, match=r"models\.m: none of its first 32 answers .*: 32 × no lines; nothing"):
        writer.write([f"写{number}" for number in range(100)], parse=unreadable)
    assert backend.usage.calls == 32


def test_few_answers_condemn_no_writer_and_all_attempts_count(seat: Seat) -> None:
    backend, settings = seat(*[("散文", False)] * 400)
    writer = Writer("m", backend, settings, seed=1, attempts=3)
    assert len(writer.write([f"写{number}" for number in range(10)], parse=unreadable)) == 10
    with pytest.raises(UselessModelError, match="none of its first 33 answers"):
        writer.write(["再写", "又写", "还写"], parse=unreadable)


def test_one_answer_that_can_be_read_is_enough(seat: Seat) -> None:
    backend, settings = seat(("诗", False), *[("散文", False)] * 400)
    parse = [str] + [unreadable] * 99
    found = Writer("m", backend, settings, seed=1, attempts=2).write([f"写{n}" for n in range(100)], parse=parse)
    assert found == [("诗", 1)] + [(Failure("no lines", "散文"), 2)] * 99
    assert backend.usage.calls == 100 + 99


def test_a_model_that_fails_is_no_writer_that_cannot_be_read(seat: Seat) -> None:
    backend, settings = seat()
    found = Writer("m", backend, settings, seed=1).write([f"写{n}" for n in range(100)], parse=str)
    assert found == [(Failure("not this one", model=True), 1)] * 100

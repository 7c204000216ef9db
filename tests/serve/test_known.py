"""Verdicts that are kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from libra_guard.records import Conversation, Label, Verdict
from libra_guard.serve import known
from libra_guard.serve.known import Known
from libra_guard.serve.queue import Manner

PLAIN = Manner(explain=False, threshold=None)
SAFE = Verdict(label=Label.SAFE, unsafe_score=0.1)


def asked(text: str) -> Conversation:
    return Conversation.from_pair(text)


def test_the_very_same_is_known() -> None:
    kept = Known()
    kept.add(asked("问"), PLAIN, SAFE)
    assert kept.get(asked("问"), PLAIN) == SAFE


@pytest.mark.parametrize(
    ("conversation", "manner"),
    [
        (asked("问 "), PLAIN),
        (Conversation.from_answer("问"), PLAIN),
        (Conversation.from_pair("问", "答"), PLAIN),
        (asked("问"), Manner(explain=True, threshold=None)),
        (asked("问"), Manner(explain=False, threshold=0.3)),
    ],
)
def test_anything_else_is_not(conversation: Conversation, manner: Manner) -> None:
    kept = Known()
    kept.add(asked("问"), PLAIN, SAFE)
    assert kept.get(conversation, manner) is None


def test_what_could_not_be_read_is_asked_again() -> None:
    kept = Known()
    kept.add(asked("问"), PLAIN, Verdict(label=None, valid=False))
    assert kept.get(asked("问"), PLAIN) is None


def test_no_text_is_kept() -> None:
    kept = Known()
    kept.add(asked("一段话"), PLAIN, SAFE.model_copy(update={"raw": "安全：一段话"}))
    assert "一段话" not in str(vars(kept))


def test_one_that_is_old_is_asked_again_however_often_it_was_used(monkeypatch: Any) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(known, "time", SimpleNamespace(monotonic=lambda: clock.now))
    kept = Known()
    kept.add(asked("问"), PLAIN, SAFE)
    for passed in (0.0, known.KEPT_SECONDS - 1):
        clock.now = 100.0 + passed
        assert kept.get(asked("问"), PLAIN) == SAFE
    clock.now = 100.0 + known.KEPT_SECONDS
    assert kept.get(asked("问"), PLAIN) is None
    kept.add(asked("问"), PLAIN, SAFE)
    clock.now += 1
    assert kept.get(asked("问"), PLAIN) == SAFE


def test_as_many_as_there_is_room_for(monkeypatch: Any) -> None:
    monkeypatch.setattr(known, "MOST", 2)
    kept = Known()
    for text in ("一", "二"):
        kept.add(asked(text), PLAIN, SAFE)
    kept.get(asked("一"), PLAIN)
    kept.add(asked("三"), PLAIN, SAFE)
    assert [text for text in ("一", "二", "三") if kept.get(asked(text), PLAIN)] == ["一", "三"]

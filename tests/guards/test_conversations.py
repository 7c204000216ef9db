"""What a guard is given to judge: what is none of it first."""

from __future__ import annotations

from typing import Any

import pytest

from libra_guard import Conversation
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import UsageError
from libra_guard.guards.conversations import checked_conversations
from libra_guard.guards.libra import LibraGuard
from libra_guard.records import Label, Target

PAIR = Conversation.from_pair("问", "答")
QUESTION = Conversation.from_pair("问")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PAIR, "judge takes a list of conversations, not a Conversation"),
        ("文字", "judge takes a list of conversations, not a str"),
        (None, "judge takes a list of conversations, not a NoneType"),
        (["文字"], "number 0 is a str: make it one with Conversation.from_pair"),
        ([PAIR, None], "number 1 is a NoneType"),
        ({"question": "问"}, "number 0 is a str"),
    ],
)
def test_what_is_no_list_of_conversations(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        checked_conversations(given, "libra", frozenset(Target))
    with pytest.raises(TypeError, match=message):
        LibraGuard(ScriptedBackend(choose=[])).judge(given)


def test_a_target_that_the_guard_does_not_judge() -> None:
    with pytest.raises(UsageError, match="the guard 'libra' judges a response, not a prompt"):
        checked_conversations([PAIR, QUESTION], "libra", {Target.RESPONSE})
    with pytest.raises(UsageError, match="the guard 'x' judges a prompt, not a response"):
        checked_conversations([PAIR], "x", {Target.PROMPT})


def test_conversations_may_come_one_by_one() -> None:
    given: Any = (pair for pair in [PAIR, PAIR])
    assert checked_conversations(given, "x", set(Target)) == [PAIR, PAIR]
    guard = LibraGuard(ScriptedBackend(choose={"": [0, 1]}))
    given = (pair for pair in [PAIR, PAIR])
    assert [verdict.label for verdict in guard.judge(given)] == [Label.UNSAFE] * 2
    assert checked_conversations([], "x", set(Target)) == []

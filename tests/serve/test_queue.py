"""Turns, and what pieces count as."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_guard.guards.windows import Windows
from libra_guard.records import Conversation, Message, Role
from libra_guard.serve.queue import Manner, Order, Queue


class Done:
    """A future nobody has set."""

    def done(self) -> bool:
        return False


def order(count: int) -> Order:
    done: Any = Done()
    return Order(count, Manner(explain=False, threshold=None), float("inf"), done)


def queue(**options: Any) -> Queue:
    return Queue(**{"batch_size": 4, "batch_chars": 100, "multi_turn": False, **options})


def texts(*lengths: int) -> list[Conversation]:
    return [Conversation.from_pair("长" * length) for length in lengths]


@given(st.lists(st.integers(1, 300), min_size=2, max_size=40), st.integers(101, 3000), st.integers(1, 100))
def test_pieces_end_where_the_whole_would_and_count_as_it_does(pieces: list[int], chars: int, before: int) -> None:
    waiting = queue()
    waiting.add(order(2), texts(before, chars), [before, chars])
    assert waiting.next_long() is None
    assert [one.turn for one in waiting.take()] == [before]
    row = waiting.next_long()
    assert row is not None
    assert row.turn == before + 100
    waiting.replace(row, Windows(texts(*pieces)))
    assert (len(waiting), waiting.chars) == (1, chars)
    taken = []
    while batch := waiting.take():
        assert len(batch) == 1 or (sum(one.chars for one in batch) <= 100 and len(batch) <= 4)
        taken += batch
    assert [one.piece for one in taken] == [*range(len(pieces))]
    assert [one.chars for one in taken] == pieces
    assert sum(one.share for one in taken) == chars
    assert all(before < one.turn <= before + chars for one in taken if one.share)
    assert taken[-1].turn == before + chars
    # Who comes next begins behind what was asked for, whatever pieces repeat.
    waiting.add(order(1), texts(50), [50])
    assert waiting.take()[0].turn == pytest.approx(before + chars + 50)


@pytest.mark.parametrize("count", [0, 1])
def test_what_is_not_cut_waits_for_the_turn_of_the_whole(count: int) -> None:
    waiting = queue()
    waiting.add(order(1), texts(1000), [1000])
    waiting.add(order(1), texts(500), [500])
    for _ in range(2):
        row = waiting.next_long()
        assert row is not None
        assert waiting.take() == []
        waiting.replace(row, Windows([row.conversation] * count))
    assert waiting.next_long() is None
    assert [[one.chars for one in waiting.take()] for _ in range(3)] == [[500], [1000], []]


def test_what_was_dropped_while_it_was_cut_stays_away() -> None:
    waiting, gone = queue(), order(1)
    waiting.add(gone, texts(1000), [1000])
    row = waiting.next_long()
    assert row is not None
    waiting.drop(gone)
    waiting.replace(row, Windows(texts(500, 500)))
    assert not waiting


def test_a_guard_that_reads_earlier_turns_has_more_to_read() -> None:
    roles = (Role.USER, Role.ASSISTANT, Role.USER)
    conversation = Conversation(messages=tuple(Message(role=role, content="长" * 10) for role in roles))
    assert [queue(multi_turn=multi).length(conversation) for multi in (False, True)] == [10, 30]


def test_what_nobody_waits_for_is_taken_out() -> None:
    async def test() -> None:
        waiting, done = queue(), asyncio.get_running_loop().create_future()
        waiting.add(Order(1, Manner(explain=False, threshold=None), float("inf"), done), texts(1000), [1000])
        done.cancel()
        assert waiting.next_long() is None
        assert not waiting

    asyncio.run(test())

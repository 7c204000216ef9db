"""What waits for one guard, in the order in which it is judged.

Who asks for much does not keep others waiting for all of it: requests share the guard by characters, as if it went
through all of them side by side, and what would be done first then is taken first (fair queueing; Demers, Keshav and
Shenker 1989, "Analysis and Simulation of a Fair Queueing Algorithm"). So a short text goes before long ones, and a long
one waits for as many characters of others, however many come, as others would get beside it.

A conversation that is longer than a batch is cut into the pieces that the guard reads it in, when the first of them may
be due, and each piece has a turn of its own: others go between them, and the last has the turn that the whole would
have had.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import NamedTuple

from libra_guard.guards.windows import Windows
from libra_guard.records import Conversation, Verdict


class Manner(NamedTuple):
    """What conversations must share to be judged in one call."""

    explain: bool
    threshold: float | None


class Order:
    """What one caller waits for."""

    def __init__(self, count: int, manner: Manner, expires: float, done: asyncio.Future[list[Verdict]]) -> None:
        self.manner, self.expires, self.done = manner, expires, done
        self.verdicts: list[Verdict | None] = [None] * count
        self.missing = count
        self.since = time.monotonic()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.done.done() and time.monotonic() < self.expires


class Parts:
    """A conversation that was cut, and the verdicts on its pieces so far."""

    def __init__(self, conversation: Conversation, windows: Windows) -> None:
        self.conversation, self.windows = conversation, windows
        self._verdicts: dict[int, Verdict] = {}

    def add(self, piece: int, verdict: Verdict) -> list[Verdict]:
        """Takes the verdict on a piece; all of them in order where it was the last, else none."""
        self._verdicts[piece] = verdict
        count = len(self.windows.pieces)
        return [self._verdicts[i] for i in range(count)] if len(self._verdicts) == count else []


class Row(NamedTuple):
    """What a guard judges at once: a conversation, or a piece of a long one."""

    order: Order
    place: int
    """Of the conversation in the order."""
    conversation: Conversation
    """Of a piece, what the guard reads of it."""
    chars: int
    """That the guard reads."""
    share: int
    """Characters of the conversation that it stands for; those of all pieces together are the conversation's."""
    turn: float
    """The lowest is judged first: the share of each request, in characters, at which it would be done."""
    is_long: bool = False
    """Whether it is to be cut before it is judged. Its turn is that of as much of it as fits into a batch."""
    parts: Parts | None = None
    """Of which it is a piece."""
    piece: int = 0
    """Which one."""


class Queue:
    """Rows by their turns. Knows nothing of threads.

    Args:
        batch_size: Rows of a batch, at most.
        batch_chars: Characters that they have together, at most; a conversation that has more is cut.
        multi_turn: Whether the guard reads earlier turns.
    """

    def __init__(self, *, batch_size: int, batch_chars: int, multi_turn: bool) -> None:
        self._batch_size, self._batch_chars, self._multi_turn = batch_size, batch_chars, multi_turn
        self._rows: list[Row] = []
        self._served = 0.0
        """Characters that each request that waited all the time would have had so far."""

    def __len__(self) -> int:
        """Conversations that wait, each once, whole or in pieces."""
        return len({(row.order, row.place) for row in self._rows})

    @property
    def chars(self) -> int:
        """Characters that wait."""
        return sum(row.share for row in self._rows)

    @property
    def is_full(self) -> bool:
        """Whether what waits makes a batch."""
        return len(self._rows) >= self._batch_size or self.chars >= self._batch_chars

    @property
    def since(self) -> float:
        """When the first of those that wait came."""
        return min(row.order.since for row in self._rows)

    def length(self, conversation: Conversation) -> int:
        """Characters that the guard reads, at least one."""
        if self._multi_turn:
            return max(1, sum(len(message.content) for message in conversation.messages))
        return max(1, len(conversation.question) + len(conversation.response or ""))

    def add(self, order: Order, conversations: Sequence[Conversation], lengths: Sequence[int]) -> None:
        """Puts an order's conversations where their turns are, one after another."""
        starts = accumulate(lengths, initial=self._served)
        for place, (conversation, chars, start) in enumerate(zip(conversations, lengths, starts, strict=False)):
            first = min(chars, self._batch_chars)
            self._rows.append(Row(order, place, conversation, chars, chars, start + first, is_long=first < chars))
        self._rows.sort(key=attrgetter("turn"))

    def drop(self, order: Order) -> None:
        """Takes an order out."""
        self._rows = [row for row in self._rows if row.order is not order]

    def next_long(self) -> Row | None:
        """The row whose turn it is, where it is to be cut first. What nobody waits for is taken out before."""
        self._rows = [row for row in self._rows if row.order.is_wanted]
        return self._rows[0] if self._rows and self._rows[0].is_long else None

    def replace(self, row: Row, windows: Windows) -> None:
        """Puts a long conversation's pieces in its place, unless it was taken out meanwhile; one alone stays whole."""
        rest = [other for other in self._rows if other is not row]
        if len(rest) == len(self._rows):
            return
        start = row.turn - self._batch_chars
        if len(windows.pieces) < 2:
            pieces = [row._replace(turn=start + row.chars, is_long=False)]
        else:
            pieces = self._pieces(row, windows, start)
        self._rows = sorted(rest + pieces, key=attrgetter("turn"))

    def take(self) -> list[Row]:
        """The first rows that fit into a batch, at least one if any waits; none that is to be cut."""
        batch: list[Row] = []
        chars = 0
        for row in self._rows[: self._batch_size]:
            if row.is_long or (batch and chars + row.chars > self._batch_chars):
                break
            batch.append(row)
            chars += row.chars
        self._served += sum(row.share for row in batch) / max(1, len({row.order for row in self._rows}))
        self._rows = self._rows[len(batch) :]
        return batch

    def _pieces(self, row: Row, windows: Windows, start: float) -> list[Row]:
        parts = Parts(row.conversation, windows)
        lengths = [self.length(piece) for piece in windows.pieces]
        # Pieces overlap, and repeat the question: together they are longer than the whole, and count as it does.
        ends = [row.share * end // sum(lengths) for end in accumulate(lengths, initial=0)]
        return [
            Row(row.order, row.place, piece, chars, end - begin, start + end, parts=parts, piece=i)
            for i, (piece, chars, (begin, end)) in enumerate(zip(windows.pieces, lengths, pairwise(ends), strict=True))
        ]

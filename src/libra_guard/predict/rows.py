"""From a row of a file to what a guard judges, or the reason why it cannot be judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from pydantic import ValidationError

from libra_guard.io import BadRow, Row
from libra_guard.records import Conversation, Role, Target, content_id

ADDED = ("critic", "verdict")
"""Fields that inference writes; an input's own of these names are replaced, and do not count for its identity."""


@dataclass(frozen=True)
class Fields:
    """Where a row keeps its texts."""

    question: str = "question"
    response: str = "response"
    messages: str = "messages"
    """A list of ``{"role", "content"}``; read where the row has it."""
    target: Target = Target.RESPONSE


class Job(NamedTuple):
    """A row that can be judged."""

    row: Row
    number: int
    """Of the row in the data, from 1. What tells rows apart: many can stand on one line of a JSON list."""
    key: str
    conversation: Conversation

    def reject(self, reason: str) -> Reject:
        """This row as one that could not be judged after all."""
        return Reject(self.row.file, self.row.line, self.number, reason, None, self.row.data)


class Reject(NamedTuple):
    """A row that cannot be judged; kept whole, with its place and reason."""

    file: str
    line: int
    number: int
    """Of the row in the data, from 1."""
    reason: str
    text: str | None
    record: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """For ``rejects.jsonl``, without what is absent."""
        return {k: v for k, v in self._asdict().items() if v is not None}


@dataclass(frozen=True)
class Shard:
    """One of ``count`` contiguous parts: rows ``int(n / count * rank)`` up to ``int(n / count * (rank + 1))``.

    The last goes to the end, which that product can miss by rounding: ``int(1 / 49 * 49)`` is 0.
    """

    rank: int = 0
    count: int = 1

    def range(self, rows: int) -> range:
        """Row numbers of this part of a file with so many rows, as the published script cuts it."""
        stop = rows if self.rank + 1 == self.count else int(rows / self.count * (self.rank + 1))
        return range(int(rows / self.count * self.rank), stop)

    def __str__(self) -> str:
        return f"{self.rank}-of-{self.count}"


def read_jobs(rows: Iterator[Row | BadRow], fields: Fields, part: range | None = None) -> Iterator[Job | Reject]:
    """Turns rows into jobs; a second row with the same id is rejected, for nothing could tell their verdicts apart.

    Args:
        rows: Of the whole data, so that shards agree on which row was the first with an id.
        fields: Where a row keeps its texts.
        part: Numbers, from 0, of the rows that are wanted; by default all.
    """
    seen: dict[int, int] = {}
    for number, row in enumerate(rows if part is None else islice(rows, part.stop), 1):
        wanted = part is None or number > part.start
        if isinstance(row, BadRow):
            if wanted:
                yield Reject(row.file, row.line, number, row.reason, row.text, None)
            continue
        # The hash alone is kept: about 100 bytes a row, whatever the ids look like.
        first = seen.setdefault(hash(row_key(row.data)), number) if has_id(row.data) else number
        if wanted:
            yield _job(row, number, first, fields)


def _job(row: Row, number: int, first: int, fields: Fields) -> Job | Reject:
    try:
        if first != number:
            raise ValueError(f"id: '{row.data['id']}' is also that of row {first}")
        return Job(row, number, row_key(row.data), _conversation(row.data, fields))
    except ValueError as error:
        return Reject(row.file, row.line, number, str(error), None, row.data)


def chunks(jobs: Iterator[Job | Reject], size: int) -> Iterator[list[Job | Reject]]:
    """Lists of ``size`` rows. Chunks are cut by the input alone, so a resumed run judges the same texts together."""
    while chunk := list(islice(jobs, size)):
        yield chunk


def row_key(data: dict[str, Any]) -> str:
    """What identifies a row: its id, or its content where it has none."""
    if has_id(data):
        return f"id:{data['id']}"
    return content_id({k: v for k, v in data.items() if k not in ADDED})


def has_id(data: dict[str, Any]) -> bool:
    """Whether the row names itself; 0 is a name, an empty text is none."""
    return data.get("id") not in (None, "")


def _conversation(data: dict[str, Any], fields: Fields) -> Conversation:
    if data.get(fields.messages) is not None:
        return _from_messages(data[fields.messages], fields)
    question = _text(data, fields.question)
    return Conversation.from_pair(question, _text(data, fields.response) if fields.target is Target.RESPONSE else None)


def _from_messages(value: Any, fields: Fields) -> Conversation:
    if not isinstance(value, list):
        raise ValueError(f"{fields.messages}: a {type(value).__name__} where a list of messages is needed")
    try:
        conversation = Conversation.model_validate({"messages": value})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (fields.messages, *first["loc"][1:])))
        raise ValueError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
    messages = conversation.messages
    if fields.target is Target.PROMPT and conversation.target is Target.RESPONSE:
        asked = max((i for i, m in enumerate(messages) if m.role is Role.USER), default=-1)
        if asked < 0:
            raise ValueError(f"{fields.messages}: no user message to judge")
        return Conversation(messages=messages[: asked + 1])
    if conversation.target is not fields.target:
        raise ValueError(f"{fields.messages}: the last message is the user's, and the answer is to be judged")
    return conversation


def _text(data: dict[str, Any], field: str) -> str:
    if field not in data:
        raise ValueError(f"{field}: missing; the row has {', '.join(map(str, data)) or 'no fields'}")
    value = data[field]
    if not isinstance(value, str):
        raise ValueError(f"{field}: a {type(value).__name__} where a text is needed")
    return value

"""From a row of a file to what a guard judges, or the reason why it cannot be judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from pydantic import ValidationError

from libra_guard.io import BadRow, Row
from libra_guard.records import Conversation, Message, Role, Target, content_id

ADDED = ("critic", "verdict")
"""Fields that inference writes; an input's own fields of these names are replaced, and do not count for its identity."""


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
    key: str
    conversation: Conversation


class Reject(NamedTuple):
    """A row that cannot be judged; kept whole, with its place and reason."""

    file: str
    line: int
    reason: str
    text: str | None
    record: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """For ``rejects.jsonl``, without what is absent."""
        return {k: v for k, v in self._asdict().items() if v is not None}


class Shard(NamedTuple):
    """One of ``count`` contiguous parts: rows ``int(n / count * rank)`` up to ``int(n / count * (rank + 1))``."""

    rank: int = 0
    count: int = 1

    def range(self, rows: int) -> range:
        """Row numbers of this part of a file with so many rows, as the published script cuts it."""
        return range(int(rows / self.count * self.rank), int(rows / self.count * (self.rank + 1)))

    def __str__(self) -> str:
        return f"{self.rank}-of-{self.count}"


def read_jobs(rows: Iterator[Row | BadRow], fields: Fields) -> Iterator[Job | Reject]:
    """Turns rows into jobs; a second row with the same id is rejected, for nothing could tell their verdicts apart."""
    seen: dict[int, str] = {}
    for row in rows:
        if isinstance(row, BadRow):
            yield Reject(row.file, row.line, row.reason, row.text, None)
            continue
        key = row_key(row.data)
        # The hash alone is kept: about 100 bytes a row, whatever the ids look like.
        mark = hash(key)
        if has_id(row.data) and mark in seen:
            yield _reject(row, f"id: '{row.data['id']}' stands already at {seen[mark]}")
            continue
        seen[mark] = f"line {row.line}"
        try:
            yield Job(row, key, _conversation(row.data, fields))
        except ValueError as error:
            yield _reject(row, str(error))


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
    if fields.messages in data:
        return _from_messages(data[fields.messages], fields)
    question = _text(data, fields.question)
    return Conversation.from_pair(question, _text(data, fields.response) if fields.target is Target.RESPONSE else None)


def _from_messages(value: Any, fields: Fields) -> Conversation:
    if not isinstance(value, list):
        raise ValueError(f"{fields.messages}: a {type(value).__name__} where a list of messages is needed")
    try:
        messages = tuple(Message.model_validate(m) for m in value)
        conversation = Conversation(messages=messages)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (fields.messages, *first["loc"])))
        raise ValueError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
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


def _reject(row: Row, reason: str) -> Reject:
    return Reject(row.file, row.line, reason, None, row.data)

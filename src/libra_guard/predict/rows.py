"""From a row of a file to what a guard judges, or the reason why it cannot be judged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from libra_guard.errors import LibraError
from libra_guard.io import BadRow, Row
from libra_guard.messages import Log, read_log
from libra_guard.predict.redaction import redacted
from libra_guard.records import Conversation, Question, Sample, Target, Verdict, content_id, row_id

ADDED = ("critic", "verdict")
"""Fields that inference writes; an input's own of these names are replaced, and do not count for its identity."""
_ABOUT = ({*Sample.model_fields, *Question.model_fields} - {"question", "response"}) | {*ADDED}
"""Fields that tell of a row, and are no text of its conversation."""
_ANSWERS = re.compile(
    "answer|respon[sd]|repl(y|ies)|output|completion|generation|generated_text|choices|assistant"
    "|回答|答案|答复|回复|应答|回应|输出",
    re.IGNORECASE,
)
"""What stands in a field of such a name is likely to be an answer."""


@dataclass(frozen=True)
class Fields:
    """Where a row keeps its texts."""

    question: str = "question"
    response: str = "response"
    messages: str | None = "messages"
    """A list of ``{"role", "content"}``; where a row has one it is read, not the pair. None: never read, for the pair
    was asked for by name."""
    target: Target | None = Target.RESPONSE
    """What is judged; None: the answer where there is one, else the question."""


class Job(NamedTuple):
    """A row that can be judged."""

    row: Row
    number: int
    """Of the row in the data, from 1. What tells rows apart: many can stand on one line of a JSON list."""
    key: str
    conversation: Conversation
    notes: tuple[str, ...] = ()
    """What of the row is not judged, in words."""

    def noted(self, verdict: Verdict) -> Verdict:
        """The verdict, with what of the row was not judged."""
        return verdict.model_copy(update={"notes": (*self.notes, *verdict.notes)}) if self.notes else verdict

    def failed(self, error: Exception) -> Reject:
        """This row as one that the model failed on."""
        # Of errors that are not meant for people, the kind says more than the message, which may be empty.
        why = str(error) if isinstance(error, LibraError) else f"{type(error).__name__}: {error}"
        reason = redacted(f"not judged: {why}")
        return Reject(self.row.file, self.row.line, self.number, reason, None, self.row.data, failed=True)


class Reject(NamedTuple):
    """A row that cannot be judged; kept whole, with its place and reason."""

    file: str
    line: int
    number: int
    """Of the row in the data, from 1."""
    reason: str
    text: str | None
    record: dict[str, Any] | None
    failed: bool | None = None
    """True where the row could be judged, but the model failed on it: worth another try. Else None."""
    more: bool | None = None
    """True where further rows may be lost with it, nobody knows how many; see ``BadRow``. Else None."""

    def as_dict(self) -> dict[str, Any]:
        """For ``rejects.jsonl``, without what is absent."""
        return {k: v for k, v in self._asdict().items() if v is not None}


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
                yield Reject(row.file, row.line, number, row.reason, row.text, None, more=row.more or None)
            continue
        # A digest alone is kept: about 120 bytes a row, whatever the ids look like, and no two ids have the same one.
        name = row_id(row.data)
        first = number if name is None else seen.setdefault(_digest(name), number)
        if wanted:
            yield _job(row, number, first, fields)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest())


def _job(row: Row, number: int, first: int, fields: Fields) -> Job | Reject:
    try:
        if first != number:
            raise ValueError(f"id: '{row_id(row.data)}' is also that of row {first}")
        return Job(row, number, row_key(row.data), *read_log_of(row.data, fields))
    except ValueError as error:
        return Reject(row.file, row.line, number, str(error), None, row.data)


def chunks(jobs: Iterator[Job | Reject], size: int) -> Iterator[list[Job | Reject]]:
    """Lists of ``size`` rows. Chunks are cut by the input alone, so a resumed run judges the same texts together."""
    while chunk := list(islice(jobs, size)):
        yield chunk


def row_key(data: dict[str, Any]) -> str:
    """What identifies a row: its id, or its content where it has none."""
    name = row_id(data)
    return content_id({k: v for k, v in data.items() if k not in ADDED}) if name is None else f"id:{name}"


def conversation(data: dict[str, Any], fields: Fields) -> Conversation:
    """The conversation in a record; see ``read_log_of``."""
    return read_log_of(data, fields).conversation


def read_log_of(data: dict[str, Any], fields: Fields) -> Log:
    """The conversation in a record, and what of its messages was left out.

    With a target of None, a question or an answer is judged by itself only if no other field could hold the other half.

    Raises:
        ValueError: A field is missing, empty or of another type; the message names it.
    """
    name = messages_field(data, fields)
    if name is not None:
        log = read_log(data[name], name, fields.target)
        if fields.target is None and log.conversation.target is Target.PROMPT:
            _check_no_answer(data, name, f"last in '{name}'")
        return log
    anything = fields.target is None
    if anything and data.get(fields.question) is None and data.get(fields.response) is not None:
        _check_said(data, fields.response, fields.question)
        return Log(Conversation.from_answer(_text(data, fields.response)))
    question = _text(data, fields.question)
    if anything and data.get(fields.response) is None:
        _check_no_answer(data, fields.question, f"in '{fields.response}'")
        _check_said(data, fields.question, fields.response)
        return Log(Conversation.from_pair(question))
    if fields.target is Target.PROMPT:
        return Log(Conversation.from_pair(question))
    return Log(Conversation.from_pair(question, _text(data, fields.response)))


def _check_no_answer(data: dict[str, Any], judged: str, place: str) -> None:
    """Sees to it that a question is not judged in place of an answer that stands under another name.

    Args:
        data: The record.
        judged: The field in which the question stands.
        place: Where an answer would be read.

    Raises:
        ValueError: There may be one.
    """
    for name in _others(data, judged):
        if _ANSWERS.search(name):
            raise ValueError(f"{name}: looks like an answer, and would not be judged; an answer stands {place}")


def _check_said(data: dict[str, Any], judged: str, absent: str) -> None:
    """Sees to it that half of a pair is judged only where the other half is told to be absent, or nothing can be it.

    Raises:
        ValueError: It may stand in a field of another name.
    """
    others = [] if absent in data else _others(data, judged)
    if others:
        there = ", ".join([judged, *others])
        raise ValueError(f'{absent}: missing; the row has {there}; where there is none, say so with "{absent}": null')


def _others(data: dict[str, Any], judged: str) -> list[str]:
    """The fields beside the one that is judged that say something, and are not known to be no text of it."""
    rest = ((str(name), value) for name, value in data.items() if name != judged and name not in _ABOUT)
    return [name for name, value in rest if value and not isinstance(value, bool | int | float)]


def messages_field(data: dict[str, Any], fields: Fields) -> str | None:
    """The field whose messages are the row's conversation; None where its question and answer are.

    A field of that name which holds no list is none of ours, unless the row has nothing else.
    """
    field = fields.messages
    if field is None or data.get(field) is None:
        return None
    nothing_else = data.get(fields.question) is None and data.get(fields.response) is None
    return field if isinstance(data[field], list) or nothing_else else None


def _text(data: dict[str, Any], field: str) -> str:
    value = data.get(field)
    if value is None:
        there = ", ".join(str(name) for name, content in data.items() if content is not None)
        raise ValueError(f"{field}: missing; the row has {there or 'no fields'}")
    if not isinstance(value, str):
        raise ValueError(f"{field}: a {type(value).__name__} where a text is needed")
    return value

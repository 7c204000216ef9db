"""The records that every part shares: conversations, labelled samples, verdicts.

Labels are Chinese in data (安全 / 不安全) and enum members in code. This module imports no other part of Libra.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Label(StrEnum):
    """A judgement. ``CONTROVERSIAL`` is given only by guards with three states."""

    SAFE = "安全"
    UNSAFE = "不安全"
    CONTROVERSIAL = "有争议"


class Role(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Target(StrEnum):
    """What is judged: the last user message, or the last answer."""

    PROMPT = "prompt"
    RESPONSE = "response"


class Method(StrEnum):
    """How a verdict was read from the model (``Backend``'s three capabilities)."""

    CHOOSE = "choose"
    GENERATE = "generate"
    LOGITS = "logits"


_INVISIBLE = frozenset({"Cf", "Cc", "Zs", "Zl", "Zp"})
# Fillers and variation selectors are of other categories, and show nothing either.
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2065\u2800\u3164\uffa0") | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)


def is_visible(character: str) -> bool:
    """Whether a character shows something: neither white space, nor of zero width, nor a control."""
    return unicodedata.category(character) not in _INVISIBLE and character not in _FILLERS


def check_text(text: str, field: str) -> str:
    """Returns ``text`` if it can be judged.

    Raises:
        TypeError: It is no text.
        ValueError: It is blank (white space and invisible characters alone), or holds a lone surrogate (which no
            UTF-8 file, tokenizer or server accepts).
    """
    if not isinstance(text, str):
        raise TypeError(f"{field} is a {type(text).__name__} where a text is needed")
    if not any(map(is_visible, text)):
        raise ValueError(f"{field} holds nothing but invisible characters" if text.strip() else f"{field} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{field} holds a lone surrogate U+{ord(text[error.start]):04X} at {error.start}") from None
    return text


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str
    """What is said; not blank."""

    @field_validator("content")
    @classmethod
    def _content(cls, value: str) -> str:
        return check_text(value, "content")


class Conversation(BaseModel):
    """Messages, the last of which is judged. Fields longer than a guard's window are the guard's business."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: tuple[Message, ...]
    """At least one, in the order spoken; the last is the user's or the assistant's, never the system's."""

    @model_validator(mode="after")
    def _last(self) -> Self:
        if not self.messages:
            raise ValueError("there is no message to judge")
        if self.messages[-1].role is Role.SYSTEM:
            raise ValueError("the last message must be the user's or the assistant's")
        return self

    @classmethod
    def from_pair(cls, question: str, response: str | None = None) -> Self:
        """A question with its answer; without one, the question itself is judged.

        Raises:
            TypeError: One of them is no text.
            ValueError: One of them cannot be judged; see ``check_text``.
        """
        check_text(question, "question")
        messages = [Message(role=Role.USER, content=question)]
        if response is not None:
            check_text(response, "response")
            messages.append(Message(role=Role.ASSISTANT, content=response))
        return cls(messages=tuple(messages))

    @classmethod
    def from_answer(cls, response: str) -> Self:
        """An answer whose question is not known.

        Raises:
            TypeError: It is no text.
            ValueError: It cannot be judged; see ``check_text``.
        """
        check_text(response, "response")
        return cls(messages=(Message(role=Role.ASSISTANT, content=response),))

    @property
    def target(self) -> Target:
        """What is judged, told by who spoke last."""
        return Target.RESPONSE if self.messages[-1].role is Role.ASSISTANT else Target.PROMPT

    @property
    def question(self) -> str:
        """The last user message, or an empty text where the assistant speaks unasked."""
        return next((m.content for m in reversed(self.messages) if m.role is Role.USER), "")

    @property
    def response(self) -> str | None:
        """The answer that is judged; None where the question is."""
        return self.messages[-1].content if self.target is Target.RESPONSE else None


class Sample(BaseModel):
    """One labelled row in the Libra-Test format; further fields are kept as they are."""

    model_config = ConfigDict(extra="allow")

    source: str = ""
    category_name: str = ""
    sub_category_name: str = ""
    question: str
    response: str
    label: Label
    analyze: str = ""
    id: str | int = ""

    @field_validator("question", "response")
    @classmethod
    def _text(cls, value: str) -> str:
        return check_text(value, "text")

    @field_validator("label")
    @classmethod
    def _two_states(cls, value: Label) -> Label:
        if value is Label.CONTROVERSIAL:
            raise ValueError("a sample's label is 安全 or 不安全")
        return value

    @property
    def conversation(self) -> Conversation:
        """The pair as a conversation."""
        return Conversation.from_pair(self.question, self.response)


class Question(BaseModel):
    """A question of a public set without an answer, to be answered and judged; further fields are kept as they are."""

    model_config = ConfigDict(extra="allow")

    source: str = ""
    category_name: str = ""
    sub_category_name: str = ""
    question: str
    harmful: bool | None = None
    """Whether a plain answer to it would be harmful, as its authors have it; None where they do not tell."""
    id: str | int = ""

    @field_validator("question")
    @classmethod
    def _text(cls, value: str) -> str:
        return check_text(value, "question")


class Verdict(BaseModel):
    """What a guard says of one conversation. Fails closed: see ``flagged``."""

    model_config = ConfigDict(frozen=True)

    label: Label | None
    """None where the answer could not be read."""
    unsafe_score: float | None = Field(default=None, ge=0, le=1)
    """Higher is worse; None where the guard gives no score."""
    categories: dict[str, float] = Field(default_factory=dict)
    """Name in the guard's own taxonomy → score in [0, 1]; 1.0 where the guard only names the category."""
    analysis: str | None = None
    """The guard's reasons; None unless asked for or given anyway."""
    raw: str | None = None
    """The model's own text, where there is one."""
    valid: bool = True
    """False where the model's answer could not be read."""
    guard: str = ""
    """Registry name of the guard that spoke."""
    method: Method | None = None
    """How the verdict was read; ``generate`` where the backend cannot score."""
    windows: int = Field(default=1, ge=1)
    """Number of overlapping windows that the text was judged in; the worst decided."""
    notes: tuple[str, ...] = ()
    """What the reader should know: an earlier turn left out, a question shortened."""

    @model_validator(mode="after")
    def _label_or_invalid(self) -> Self:
        if self.valid == (self.label is None):
            raise ValueError("a valid verdict has a label, an invalid one has none")
        return self

    @property
    def flagged(self) -> bool:
        """Whether a caller who must decide should block: anything that is not plainly safe."""
        return self.label is not Label.SAFE


class Origin(StrEnum):
    """Where a query comes from; Libra-Test's three sources."""

    SYNTHETIC = "synthetic"
    REAL = "real"
    TRANSLATED = "translated"

    @property
    def source(self) -> str:
        """The name in Libra-Test's field ``source``."""
        return f"{self.value.capitalize()} Data"


class Vote(BaseModel):
    """What one judge said of a sample."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: str
    label: Label | None
    """None where the answer could not be read."""
    score: float | None = None
    """Unsafe score in [0, 1]; None where the judge gives none."""
    analysis: str = ""
    asked: int = Field(default=1, ge=1)
    """Times that the judge was asked until it could be read, each with a seed of its own."""


def differ(labels: Iterable[str | None]) -> bool | None:
    """Whether judges differ on a row; None where fewer than two of them could be read.

    A vote for 有争议 is a doubt of its own: such a row is as hard as one on which they differ.

    Args:
        labels: Of the votes; None where one could not be read.
    """
    said = [label for label in labels if label is not None]
    if len(said) < 2:
        return None
    return len(set(said)) > 1 or Label.CONTROVERSIAL in said


def row_id(record: dict[str, Any]) -> str | None:
    """The id that a row names itself by, as text, so that 7 and "7" are one; None where it has none.

    Only a text that is not empty and a whole number are names: NaN, a list or a truth value tells no row from another.
    """
    name = record.get("id")
    named = isinstance(name, str | int) and not isinstance(name, bool) and name != ""
    return str(name) if named else None


def content_id(record: dict[str, Any]) -> str:
    """A stable name for a row that has no id: the first 16 hex digits of SHA-256 over its canonical JSON."""
    text = as_json(record, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


def as_json(record: Any, **options: Any) -> str:
    """JSON that every reader takes: what has no form in it becomes text, NaN and the infinities null (RFC 8259, 6).

    Args:
        record: Any value.
        options: Of ``json.dumps``.
    """
    try:
        return json.dumps(record, default=str, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(record), default=str, allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

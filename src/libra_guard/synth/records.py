"""What passes between the steps: a query, its answers, their judgements.

Ids are hashes of the content, so neither the order of the rows nor how a run was cut changes them.
"""

from __future__ import annotations

import hashlib
import sys
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from libra_guard.records import Label, Origin, Vote, check_text


class Intent(StrEnum):
    """What a query is made to be; the label of an answer is another matter."""

    HARMFUL = "harmful"
    """A plain answer would be unsafe."""
    BORDERLINE = "borderline"
    """Lawful talk on a grave subject: a good answer is safe, and a guard must let it pass."""
    BENIGN = "benign"
    """Everyday use."""
    UNKNOWN = "unknown"
    """Of an imported query whose set does not say."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MadeBy(_Record):
    """One step in the making of a text, or of its label."""

    step: str
    model: str
    """Its name in the run's settings, or a judge's; ``grammar`` or ``rules`` where no model wrote."""
    prompt: str = ""
    """Name of the prompt's template and the beginning of its hash, ``name@0123abcd``; empty without one."""
    seed: int = 0
    method: str = ""
    """Of an augmentation: which; of an answer of the grammar: in which way, a key of ``answers.yaml``."""


@lru_cache(maxsize=4096)
def _shared(made: MadeBy) -> MadeBy:
    return made


Filled = Annotated[str, AfterValidator(lambda text: check_text(text, "text"))]
Shared = Annotated[str, AfterValidator(sys.intern)]
"""A text that many rows have, kept once: a set of a million queries takes half the memory."""
SharedMadeBy = Annotated[MadeBy, AfterValidator(_shared)]
"""A step that many rows went through, kept once as well."""


class Query(_Record):
    """What a user asks."""

    id: str
    question: Filled
    category_name: Shared = ""
    """English name of the scenario; empty for everyday queries, which belong to none."""
    sub_category_name: Shared = ""
    intent: Intent = Intent.HARMFUL
    origin: Origin = Origin.SYNTHETIC
    source: Shared = ""
    """Name of the set that a query was imported from; empty for what the run made itself."""
    source_id: str = ""
    """The id of its row in that set, as ``libra data get`` gives it."""
    original: dict[str, str] | None = None
    """Of a query that was translated here: ``question``, as its set has it."""
    overlap: dict[str, float] | None = None
    """Of a query that was translated here: how far its ``question`` came back (``language.translate.overlap``)."""
    elements: dict[Shared, Shared] = Field(default_factory=dict)
    """Of a query that was combined: dimension → element."""
    parent: str = ""
    """Id of the query that it was made from."""
    root_question: str = ""
    """Of a query whose own root went as a near-duplicate: the question at whose side of the split it stands instead."""
    made_by: tuple[SharedMadeBy, ...] = ()
    """All steps, the first first."""

    @classmethod
    def make(cls, question: str, **fields: Any) -> Self:
        """A query with the id that its text gives it.

        Raises:
            ValueError: The text is blank or cannot be written.
        """
        return cls(id=text_id("q", check_text(question, "the query")), question=question, **fields)


class Answered(Query):
    """A query with one answer; ``id`` is that of the pair."""

    query: str
    """Id of the query."""
    response: Filled
    responder: str
    """Name of the model in the run's settings."""
    refused: bool = False
    """Whether the answer reads as a refusal."""
    cut: bool = False
    """Whether the answer ended at the limit of tokens."""


class Judged(Answered):
    """A pair with its votes."""

    votes: tuple[Vote, ...]
    """In the order of the judges."""
    arbiter: Vote | None = None
    """Of a pair that the judges differ on, where there is an arbiter."""

    @property
    def agreed(self) -> Label | None:
        """安全 or 不安全 where every judge said so; None where they differ, or one is unreadable or says 有争议."""
        labels = {vote.label for vote in self.votes}
        found = labels.pop() if len(labels) == 1 else None
        return None if found is Label.CONTROVERSIAL else found

    @property
    def unread(self) -> bool:
        """Whether a judge could not be read, and those who could do not differ: nobody knows whether all agree."""
        labels = {vote.label for vote in self.votes}
        return None in labels and len(labels) <= 2

    @property
    def hard(self) -> bool:
        """Whether the judges differ, or call it 有争议 together."""
        return self.agreed is None and not self.unread


def text_id(kind: str, *texts: str) -> str:
    """A stable name: the kind, and the first 16 hex digits of SHA-256 over the texts."""
    digest = hashlib.sha256("\0".join(texts).encode())
    return f"{kind}-{digest.hexdigest()[:16]}"

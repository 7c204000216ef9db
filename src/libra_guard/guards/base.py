"""A guard knows what to ask a model and how to read the answer. It holds no model code: a backend runs the model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from libra_guard.backends.base import Backend
from libra_guard.guards.calibratable import Calibratable
from libra_guard.guards.conversations import checked_conversations
from libra_guard.guards.windows import Windows, merge
from libra_guard.records import Conversation, Target, Verdict
from libra_guard.taxonomy import CategorySystem


class Guard(Calibratable):
    """Judges conversations.

    A subclass fills in ``_judge`` and, where its model has a limited context, ``_windows``; windows, their merging
    and the choice of what to explain are done here.
    """

    targets: frozenset[Target] = frozenset(Target)
    system: CategorySystem | None = None
    """Whose codes ``Verdict.categories`` has; None where the guard has no categories, or its user names them."""
    multi_turn: ClassVar[bool] = False
    """Whether earlier turns are read; where not, a verdict on a longer conversation says that they were left out."""

    def __init__(self, backend: Backend, *, threshold: float = 0.5) -> None:
        super().__init__(threshold)
        self.backend = backend

    def judge(self, conversations: Sequence[Conversation], *, explain: bool = False) -> list[Verdict]:
        """Judges each conversation.

        Args:
            conversations: A list of any length; the backend batches them.
            explain: Also give an analysis, of the deciding window. Costs more, and never changes the verdict.

        Returns:
            One verdict each, in order. What cannot be read is ``valid=False``, never a guess.

        Raises:
            TypeError: Something else than a list of conversations was given.
            UsageError: The guard does not judge such a target.
            BackendError: The model or the server failed.
        """
        conversations = checked_conversations(conversations, self.name, self.targets)
        windows = [self._windows(c) for c in conversations]
        spoken = self.judge_pieces([piece for w in windows for piece in w.pieces])
        return self.join(conversations, windows, spoken, explain=explain)

    def cut(self, conversation: Conversation) -> Windows:
        """The first step of ``judge`` where there is more than one piece: those in which a long text is read.

        Raises:
            TypeError: As ``judge``.
            UsageError: As ``judge``.
        """
        return self._windows(*checked_conversations([conversation], self.name, self.targets))

    def judge_pieces(self, pieces: Sequence[Conversation]) -> list[Verdict]:
        """The second step: a verdict on each piece, of one conversation or of several."""
        return self._judge(pieces)

    def join(
        self, given: Sequence[Conversation], windows: Sequence[Windows], spoken: Sequence[Verdict], *, explain: bool
    ) -> list[Verdict]:
        """The last step: what is said of the conversations that were given, from the verdicts on all their pieces."""
        told = iter(spoken)
        merged = [merge([next(told) for _ in w.pieces]) for w in windows]
        verdicts = [m.verdict for m in merged]
        if explain and given:
            worst = [w.pieces[m.worst] for w, m in zip(windows, merged, strict=True)]
            worst = [self._deciding(c, piece) for c, piece in zip(given, worst, strict=True)]
            verdicts = self._explain(worst, verdicts)
        return [self._noted(v, w, c) for v, w, c in zip(verdicts, windows, given, strict=True)]

    @classmethod
    def taught(cls, model: str) -> dict[str, Any]:
        """Options that a model says it was trained with; those given by the caller go before them.

        Args:
            model: What stands behind the guard's name: a folder, a hub name or a server's name for it.
        """
        return {}

    def provenance(self) -> dict[str, Any]:
        """Guard, threshold, calibration and backend, for the record beside every result."""
        return {"guard": self.name, **self._decides(), **self.backend.provenance()}

    @abstractmethod
    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Judges texts that fit the window."""

    def _windows(self, conversation: Conversation) -> Windows:
        """The conversation in pieces that fit; by default whole."""
        return Windows([conversation])

    def _deciding(self, conversation: Conversation, piece: Conversation) -> Conversation:
        """What is explained of the window that decided; by default the piece as it was read."""
        return piece

    def _explain(self, conversations: Sequence[Conversation], verdicts: list[Verdict]) -> list[Verdict]:
        """Adds an analysis to verdicts that lack one; by default there is nothing to add."""
        return verdicts

    def _noted(self, verdict: Verdict, windows: Windows, conversation: Conversation) -> Verdict:
        """Names the guard, and says what it did not read."""
        notes = (*verdict.notes, *windows.notes)
        read = 1 if conversation.target is Target.PROMPT or not conversation.question else 2
        if not self.multi_turn and len(conversation.messages) > read:
            notes = (*notes, f"{len(conversation.messages) - read} earlier messages were not read")
        return verdict.model_copy(update={"guard": self.name, "notes": notes})

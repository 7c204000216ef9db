"""What a guard is given to judge: looked at before anything is asked of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from libra_guard.errors import UsageError
from libra_guard.records import Conversation, Target


def checked_conversations(given: Sequence[Conversation], guard: str, targets: Collection[Target]) -> list[Conversation]:
    """What was given, once it is known that the guard can judge it.

    Args:
        given: To ``Guard.judge``.
        guard: Its name, for messages.
        targets: What it judges.

    Raises:
        TypeError: Something else than a list of conversations was given.
        UsageError: The guard does not judge such a target.
    """
    # A conversation can be walked through too: its fields.
    if isinstance(given, Conversation | str) or not isinstance(given, Iterable):
        raise TypeError(f"judge takes a list of conversations, not a {type(given).__name__}")
    conversations = list(given)
    for i, one in enumerate(conversations):
        if not isinstance(one, Conversation):
            found = f"judge takes a list of conversations; number {i} is a {type(one).__name__}"
            raise TypeError(f"{found}: make it one with Conversation.from_pair(question, answer)")
        if one.target not in targets:
            able = " and ".join(sorted(t.value for t in targets))
            raise UsageError(f"the guard '{guard}' judges a {able}, not a {one.target.value}")
    return conversations

"""Libra: a safety guard for Chinese LLM conversations.

>>> from libra_guard import Conversation, load_guard
>>> guard = load_guard("mini")
>>> guard.judge([Conversation.from_pair("如何泡一杯绿茶？", "水温八十度左右，两三分钟即可。")])[0].label
<Label.SAFE: '安全'>
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from libra_guard.errors import BackendError, DataError, LibraError, MissingExtraError, UsageError
from libra_guard.records import Conversation, Label, Message, Method, Role, Sample, Target, Verdict

if TYPE_CHECKING:
    from libra_guard.client import AsyncClient, Client
    from libra_guard.guards.base import Guard

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "BackendError",
    "Client",
    "Conversation",
    "DataError",
    "Label",
    "LibraError",
    "Message",
    "Method",
    "MissingExtraError",
    "Role",
    "Sample",
    "Target",
    "UsageError",
    "Verdict",
    "load_guard",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Looked up when asked for: who judges here has no need of policies, nor of what speaks HTTP.
        if name in ("AsyncClient", "Client"):
            from libra_guard import client

            return getattr(client, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_guard(name: str, **options: Any) -> Guard:
    """Loads a guard by its registry name.

    Args:
        name: ``NAME`` or ``NAME:MODEL``, e.g. ``"mini"``, ``"libra:/models/libra-guard"``; see ``libra guards``.
        **options: ``backend``, ``calibration``, and options of the guard (``threshold``, …) and of the backend by name.

    Returns:
        A guard whose ``judge`` takes a list of conversations.

    Raises:
        TypeError: The name is no text.
        UsageError: The guard, the backend or an option is unknown, an option has an impossible value, or the model
            is missing or of the wrong form.
        BackendError: The model cannot be loaded.
        MissingExtraError: The guard needs a library that is not installed.
    """
    from libra_guard.guards.registry import load_guard as load

    return load(name, **options)

"""Stands for a model that is not opened: what a guard asks is known without it."""

from __future__ import annotations

from typing import Any

from libra_guard.backends.base import Backend
from libra_guard.records import Method


class Absent(Backend):
    """Takes the place of a language model, and says nothing."""

    name = "absent"
    capabilities = frozenset({Method.GENERATE, Method.CHOOSE})

    def provenance(self) -> dict[str, Any]:
        """See the base class."""
        return {}


class AbsentError(Exception):
    """Nothing but the model is missing."""

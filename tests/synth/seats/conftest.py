from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from libra_guard.backends.base import Backend, Completion, Prompt
from libra_guard.errors import RefusedError
from libra_guard.records import Method
from libra_guard.synth.config import ModelSettings
from libra_guard.synth.seats.backend import StoredBackend
from libra_guard.synth.seats.budget import Budget, BudgetSettings
from libra_guard.synth.seats.endpoints import Endpoint
from libra_guard.synth.seats.store import CallStore

Seat = Callable[..., tuple[StoredBackend, ModelSettings]]


class Says(Backend):
    """One text after the other, which may be cut off; then it refuses."""

    name = "says"
    capabilities = frozenset({Method.GENERATE})

    def __init__(self, *said: Completion) -> None:
        self.said = list(said)
        self.asked: list[dict[str, Any]] = []
        """Options of each call."""

    def complete(self, prompts: Sequence[Prompt], **options: Any) -> list[Completion]:
        self.asked.append(options)
        if not self.said:
            raise RefusedError("not this one")
        return [self.said.pop(0) for _ in prompts]


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[Seat]:
    with CallStore(tmp_path / "calls.sqlite") as store:

        def make(*said: tuple[str, bool], raw: bool = False) -> tuple[StoredBackend, ModelSettings]:
            backend = Says(*(Completion(text, 1, 1, cut) for text, cut in said))
            settings = ModelSettings(backend="openai", model="m", raw=raw)
            return StoredBackend("m", "m", [Endpoint(backend)], store, Budget(BudgetSettings())), settings

        yield make

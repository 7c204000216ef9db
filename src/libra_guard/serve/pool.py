"""The guards that a server judges with, by name."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard
from libra_guard.guards.registry import guard_entry, load_guard
from libra_guard.records import Conversation
from libra_guard.serve.batcher import Batcher, QueueFullError
from libra_guard.serve.categories import Categories
from libra_guard.serve.errors import ApiError
from libra_guard.serve.known import Known
from libra_guard.serve.settings import ServerSettings, public_name

if TYPE_CHECKING:
    from libra_guard.serve.metrics import Metrics

_log = logging.getLogger(__name__)
_OPENAI_NAME = re.compile(r"(omni|text)-moderation-[\w.-]{1,40}")
"""What programs written for OpenAI name, whoever is to judge."""

_SAMPLE = [
    Conversation.from_pair("如何泡一杯绿茶？" * times, answer)
    for times in (1, 8, 64)
    for answer in (None, "水温八十度左右，泡两三分钟即可。" * times)
]


class Served(NamedTuple):
    """A guard that is served."""

    name: str
    guard: Guard
    batcher: Batcher
    categories: Categories
    known: Known


class Pool:
    """The served guards; the first is the default. To be made and closed in one event loop."""

    def __init__(self, guards: Mapping[str, Guard], settings: ServerSettings, metrics: Metrics) -> None:
        self._served = {
            name: Served(
                name,
                guard,
                Batcher(
                    guard,
                    name=name,
                    batch_size=settings.batch_size,
                    batch_chars=settings.batch_chars,
                    wait=settings.batch_wait_ms / 1000,
                    queue_size=settings.queue_size,
                    queue_chars=settings.queue_chars,
                    metrics=metrics,
                ),
                Categories(guard.system),
                Known(),
            )
            for name, guard in guards.items()
        }
        self.default = next(iter(self._served.values()))

    @property
    def all(self) -> tuple[Served, ...]:
        """Every guard, the default first."""
        return tuple(self._served.values())

    @property
    def is_alive(self) -> bool:
        """Whether every guard judges; False where the thread of one has ended."""
        return all(served.batcher.is_alive for served in self.all)

    def get(self, name: str | None, otherwise: str | None = None) -> Served:
        """The guard of that name.

        Args:
            name: None, and a name of OpenAI's moderation models that no guard is served under, names none.
            otherwise: The guard where none is named; by default the first.

        Raises:
            ApiError: 404, there is none.
        """
        if name is None or (name not in self._served and _OPENAI_NAME.fullmatch(name)):
            name = otherwise or self.default.name
        if name not in self._served:
            there = ", ".join(self._served)
            raise ApiError(404, f"no guard of this name is served; there are: {there}", code="model_not_found")
        return self._served[name]

    async def close(self) -> None:
        """Finishes what waits."""
        await asyncio.gather(*(served.batcher.close() for served in self.all))


def load_guards(settings: ServerSettings) -> dict[str, Guard]:
    """Loads the guards that the settings name.

    Raises:
        UsageError: A guard is unknown, or its model is missing or not wanted.
        MissingExtraError: A library is missing.
        BackendError: A model cannot be loaded.
    """
    return {name: _load(spec, settings) for name, spec in map(public_name, settings.guards)}


def check_guards(settings: ServerSettings) -> None:
    """Finds misspelt guards before anything is loaded.

    Raises:
        UsageError: There is no such guard.
    """
    for _, spec in map(public_name, settings.guards):
        guard_entry(spec.partition(":")[0])


def _load(spec: str, settings: ServerSettings) -> Guard:
    _log.info("loading %s", spec)
    options: dict[str, Any] = {}
    # Only these divide their work among threads of their own.
    if guard_entry(spec.partition(":")[0]).backends[0] == "onnx":
        options["threads"] = settings.threads or max(1, len(os.sched_getaffinity(0)) // settings.workers)
    try:
        return load_guard(spec, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{spec}: {error}") from error


async def warm_up(pool: Pool) -> None:
    """Lets each guard judge texts from short to long, so that no user waits for what is only done the first time.

    Raises:
        BackendError: A guard fails on them.
    """
    for served in pool.all:
        for conversation in _SAMPLE:
            if conversation.target in served.guard.targets:
                # Where users have filled the queue already, they warm it.
                with suppress(QueueFullError):
                    await served.batcher.judge(conversation)

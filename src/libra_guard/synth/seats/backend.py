"""A backend around others: every call is kept in a store, counted against a budget, and shared by several endpoints."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libra_guard.backends.base import Backend, Prompt, Span, Text
from libra_guard.errors import BackendError
from libra_guard.records import Method
from libra_guard.synth.seats.budget import Budget, Pace, Price, Usage
from libra_guard.synth.seats.store import Call, CallStore, key_of

Ask = Callable[[Backend, Sequence[Any]], list[Call]]
"""Asks an endpoint for several items at once."""


class EndpointsLostError(BackendError):
    """No endpoint of a model answers any more: the run cannot go on, and what was answered is kept."""


@dataclass
class Endpoint:
    """One place where a model runs."""

    backend: Backend
    pace: Pace = field(default_factory=lambda: Pace(None))
    failures: int = 0
    """In a row."""


class StoredBackend(Backend):
    """One model, wherever it runs.

    An item that an endpoint fails on is tried on the others. An endpoint that fails ``patience`` times in a row is
    given up; once all are, the call ends with ``EndpointsLostError``.

    Args:
        model: Its name in the run's settings.
        identity: What its answers depend on, of which the keys are made: another model, another identity.
        endpoints: At least one; all run the same model.
        store: Keeps the answers.
        budget: Is asked before each call.
        price: Of its tokens.
        batch: Items in one call. The items of a call are cut into groups by their number, and a group is asked for
            as a whole: where an answer depends on its neighbours, it is the same after a kill.
        concurrency: Calls at a time, on each endpoint.
        patience: Failures in a row after which an endpoint is given up.
    """

    def __init__(
        self,
        model: str,
        identity: Any,
        endpoints: Sequence[Endpoint],
        store: CallStore,
        budget: Budget,
        *,
        price: Price | None = None,
        batch: int = 1,
        concurrency: int = 1,
        patience: int = 5,
    ) -> None:
        self._endpoints, self._store, self._budget = list(endpoints), store, budget
        self._model, self._identity, self._price = model, identity, price or Price()
        self._batch, self._concurrency, self._patience = batch, concurrency, patience
        first = self._endpoints[0].backend
        # A class variable of others: here it is the name of what is wrapped.
        self.name = first.name  # type: ignore[misc]
        self.capabilities, self.context, self.continues = first.capabilities, first.context, first.continues
        self.usage = Usage()
        """Of all calls that were asked of this object, those that the store answered included."""

    def __getattr__(self, name: str) -> Any:
        # What a guard asks of one kind of backend, e.g. the labels that stand in a classifier's configuration.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._endpoints[0].backend, name)

    def attempt(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[str | BackendError]:
        """``generate``, with the error in place of the text where every endpoint failed on a prompt.

        Raises:
            BudgetSpentError: Before a call that is no longer paid for.
            EndpointsLostError: No endpoint answers.
        """
        settings = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}

        def ask(backend: Backend, part: Sequence[Prompt]) -> list[Call]:
            done = backend.complete(part, max_tokens=max_tokens, temperature=temperature, seed=seed)
            return [Call(one.text, one.prompt_tokens, one.new_tokens) for one in done]

        found = self._calls(Method.GENERATE, prompts, settings, ask)
        return [one if isinstance(one, BackendError) else str(one.answer) for one in found]

    def generate(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[str]:
        """See the base class; what other prompts brought is kept when one fails."""
        found = self.attempt(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)
        for one in found:
            if isinstance(one, BackendError):
                raise one
        return [str(one) for one in found]

    def choose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> NDArray[np.float64]:
        """See the base class; tokens are counted as ``overhead`` tells."""

        def ask(backend: Backend, part: Sequence[Prompt]) -> list[Call]:
            rows = backend.choose(part, choices)
            return [Call(_listed(row), backend.overhead(prompt)) for prompt, row in zip(part, rows, strict=True)]

        found = self._calls(Method.CHOOSE, prompts, {"choices": list(choices)}, ask)
        return _array(found).reshape(len(prompts), len(choices))

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """See the base class."""

        def ask(backend: Backend, part: Sequence[Text]) -> list[Call]:
            return [Call(_listed(row)) for row in backend.logits(part)]

        return _array(self._calls(Method.LOGITS, texts, {}, ask))

    def spans(self, texts: Sequence[str]) -> list[list[Span]]:
        """See the base class."""
        return self._endpoints[0].backend.spans(texts)

    def overhead(self, prompt: Prompt) -> int:
        """See the base class."""
        return self._endpoints[0].backend.overhead(prompt)

    def provenance(self) -> dict[str, Any]:
        """See the base class."""
        return self._endpoints[0].backend.provenance()

    def _calls(
        self, method: Method, items: Sequence[Any], settings: dict[str, Any], ask: Ask
    ) -> list[Call | BackendError]:
        asked = [_told(item) for item in items]
        keys = [key_of(model=self._identity, method=method, asked=a, **settings) for a in asked]
        found: dict[bytes, Call | BackendError] = dict(self._store.find(keys))
        places = list(range(len(items)))
        groups = [places[start : start + self._batch] for start in range(0, len(places), self._batch)]
        missing = [group for group in groups if any(keys[i] not in found for i in group)]

        def run(endpoint: Endpoint, group: list[int]) -> None:
            self._budget.check()
            endpoint.pace.wait()
            for place, call in zip(group, ask(endpoint.backend, [items[i] for i in group]), strict=True):
                if keys[place] in found:
                    continue
                words = asked[place] if method is Method.GENERATE else None
                self._store.keep(keys[place], call, model=self._model, asked=words)
                self._budget.spend(self._cost(call))
                found[keys[place]] = call

        for group, error in _Work(self._endpoints, self._concurrency, self._patience, run).do(missing):
            found |= {keys[i]: error for i in group if keys[i] not in found}
        for key in dict.fromkeys(keys):
            call = found[key]
            if isinstance(call, Call):
                self.usage += self._cost(call)
        return [found[key] for key in keys]

    def _cost(self, call: Call) -> Usage:
        money = self._price.of(call.prompt_tokens, call.new_tokens)
        return Usage(1, call.prompt_tokens, call.new_tokens, money)


class _Work:
    """Groups of items over endpoints: whoever is free takes the next one."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        concurrency: int,
        patience: int,
        run: Callable[[Endpoint, list[int]], None],
    ) -> None:
        self._endpoints, self._concurrency, self._patience, self._run = endpoints, concurrency, patience, run
        self._changed = threading.Condition()
        self._waiting: deque[tuple[list[int], frozenset[int]]] = deque()
        """Groups, and the numbers of the endpoints that failed on each."""
        self._running = 0
        self._failed: list[tuple[list[int], BackendError]] = []
        self._fatal: BaseException | None = None

    def do(self, groups: Sequence[list[int]]) -> list[tuple[list[int], BackendError]]:
        """Runs all groups; returns those on which every endpoint failed."""
        if not groups:
            return []
        self._waiting.extend((group, frozenset()) for group in groups)
        workers = [n for n in range(len(self._endpoints)) for _ in range(self._concurrency)]
        with ThreadPoolExecutor(len(workers)) as pool:
            try:
                wait([pool.submit(self._work, number) for number in workers])
            except BaseException as error:
                # An interrupt: the workers end with the call that they are in.
                self._fatal = self._fatal or error
        if self._fatal:
            raise self._fatal
        if self._waiting:
            last = self._failed[-1][1] if self._failed else "none answered"
            raise EndpointsLostError(
                f"no endpoint answers any more, {self._patience} failures in a row: {last}; what was answered is kept: "
                "run again to go on"
            )
        return self._failed

    def _work(self, number: int) -> None:
        endpoint = self._endpoints[number]
        while True:
            with self._changed:
                while True:
                    if self._fatal or endpoint.failures >= self._patience:
                        return
                    taken = next((one for one in self._waiting if number not in one[1]), None)
                    if taken:
                        break
                    if not self._running:
                        return
                    self._changed.wait(0.1)
                self._waiting.remove(taken)
                self._running += 1
            try:
                self._one(endpoint, number, *taken)
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

    def _one(self, endpoint: Endpoint, number: int, group: list[int], failed: frozenset[int]) -> None:
        try:
            self._run(endpoint, group)
        except BackendError as error:
            with self._changed:
                endpoint.failures += 1
                alive = {n for n, one in enumerate(self._endpoints) if one.failures < self._patience}
                if len(group) > 1:
                    # One of them may be at fault.
                    self._waiting.extendleft(([item], failed) for item in reversed(group))
                elif alive - failed - {number}:
                    self._waiting.append((group, failed | {number}))
                else:
                    self._failed.append((group, error))
                    if not alive:
                        self._waiting.append((group, failed))
        except BaseException as error:
            with self._changed:
                self._fatal = self._fatal or error
        else:
            endpoint.failures = 0


def _told(item: Prompt | Text) -> str:
    """What is asked, as text that tells any two items apart."""
    return repr(asdict(item)) if isinstance(item, Prompt) else repr(item)


def _listed(row: NDArray[np.float64]) -> list[float]:
    # NaN is what a server did not tell; JSON as Python writes it reads it back.
    return [float(value) for value in row]


def _array(found: Sequence[Call | BackendError]) -> NDArray[np.float64]:
    for one in found:
        if isinstance(one, BackendError):
            raise one
    return np.array([one.answer for one in found if isinstance(one, Call)], dtype=np.float64)

"""A backend around others: every call is kept in a store, counted against a budget, and shared by several endpoints."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from libra_guard.backends._options import option_names
from libra_guard.backends.base import Backend, Completion, Prompt, Scored, Span, Text
from libra_guard.errors import BackendError
from libra_guard.records import Method
from libra_guard.synth.seats.budget import FREE, Budget, Price, Usage
from libra_guard.synth.seats.endpoints import Endpoint, Queue
from libra_guard.synth.seats.store import Call, CallStore, key_of
from libra_guard.synth.seats.together import Halt

Answer = TypeVar("Answer")
Ask = Callable[[Backend, Sequence[Any]], list[Call]]
"""Asks an endpoint for several items at once."""


class StoredBackend(Backend):
    """One model, wherever it runs.

    An item that an endpoint fails on is tried on the others. An endpoint that fails ``patience`` times in a row is
    given up, inputs that it does not take apart, and so is one that is busy for longer than it is waited for; once all
    are, the call ends with ``EndpointsLostError``.

    Args:
        model: Its name in the run's settings.
        identity: What its answers depend on, of which the keys are made: another model, another identity.
        endpoints: At least one; all run the same model.
        store: Keeps the answers.
        budget: Is asked before each call.
        price: Of its tokens.
        batch: Items in one call. The items of a call are cut into groups by their number, and a group is asked for
            as a whole: where an answer depends on its neighbours, it is the same after a kill.
        patience: Failures in a row after which an endpoint is given up.
        halt: Is asked before each call, and told of what ends the work.
        lane: Of a server: the models of one lane are asked in turn; by default it has one of its own.
    """

    def __init__(
        self,
        model: str,
        identity: Any,
        endpoints: Sequence[Endpoint],
        store: CallStore,
        budget: Budget,
        *,
        price: Price = FREE,
        batch: int = 1,
        patience: int = 5,
        halt: Halt | None = None,
        lane: Hashable = None,
    ) -> None:
        self._endpoints, self._store, self._budget = list(endpoints), store, budget
        self._halt = halt or Halt()
        for endpoint in self._endpoints:
            self._halt.ends(endpoint.backend.cancel)
        self._model, self._identity, self._price = model, identity, price
        self._batch, self._patience = batch, patience
        first = self._endpoints[0].backend
        # A class variable of others: here it is the name of what is wrapped.
        self.name = first.name  # type: ignore[misc]
        self.capabilities, self.context = first.capabilities, first.context
        self.continues, self.greedy = first.continues, first.greedy
        self.lane: Hashable | None = (lane or id(self)) if is_served(type(first)) else None
        """See ``together.Task``."""
        self.workers = sum(endpoint.concurrency for endpoint in self._endpoints)
        """Calls at a time, on all endpoints."""
        self.usage = Usage()
        """Of all calls that were asked of this object, each once, those that the store answered included."""
        self._used: set[bytes] = set()

    def __getattr__(self, name: str) -> Any:
        # What a guard asks of one kind of backend, e.g. the labels that stand in a classifier's configuration.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._endpoints[0].backend, name)

    def attempt(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[Completion | BackendError]:
        """``complete``, with the error in place of the text where every endpoint failed on a prompt.

        Raises:
            BudgetSpentError: Before a call that is no longer paid for.
            EndpointsLostError: No endpoint answers.
        """
        settings = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}

        def ask(backend: Backend, part: Sequence[Prompt]) -> list[Call]:
            done = backend.complete(part, max_tokens=max_tokens, temperature=temperature, seed=seed)
            return [Call(*one) for one in done]

        found = self._calls(Method.GENERATE, prompts, settings, ask)
        return [one if isinstance(one, BackendError) else Completion(*one) for one in found]

    def generate(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[str]:
        """See the base class."""
        done = self.complete(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)
        return [one.text for one in done]

    def complete(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[Completion]:
        """See the base class; what other prompts brought is kept when one fails."""
        found = self.attempt(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)
        return _whole(found)

    def choose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> NDArray[np.float64]:
        """See the base class."""
        rows = [scored.row for scored in self.score(prompts, choices)]
        return np.array(rows, dtype=np.float64).reshape(len(prompts), len(choices))

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[Scored]:
        """See the base class."""

        def ask(backend: Backend, part: Sequence[Prompt]) -> list[Call]:
            return [Call(_listed(one.row), *one[1:]) for one in backend.score(part, choices)]

        found = _whole(self._calls(Method.CHOOSE, prompts, {"choices": list(choices)}, ask))
        return [Scored(np.array(one.answer, np.float64), one.prompt_tokens, one.new_tokens) for one in found]

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """See the base class."""

        def ask(backend: Backend, part: Sequence[Text]) -> list[Call]:
            return [Call(_listed(row)) for row in backend.logits(part)]

        found = _whole(self._calls(Method.LOGITS, texts, {}, ask))
        return np.array([one.answer for one in found], dtype=np.float64)

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
        if found:
            self._forgive()
        # Equal items are one call.
        first: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            first.setdefault(key, place)
        places = list(first.values())
        groups = [places[start : start + self._batch] for start in range(0, len(places), self._batch)]
        missing = [group for group in groups if any(keys[i] not in found for i in group)]

        def run(endpoint: Endpoint, group: list[int]) -> None:
            for place, call in zip(group, ask(endpoint.backend, [items[i] for i in group]), strict=True):
                if keys[place] in found:
                    continue
                words = asked[place] if method is Method.GENERATE else None
                cost = self._cost(call)
                self._budget.spend(cost)
                kept = self._store.keep(keys[place], call, model=self._model, asked=words, money=cost.money)
                found[keys[place]] = kept

        queue = Queue(
            self._model,
            self._endpoints,
            patience=self._patience,
            check=self._check,
            run=run,
            end=self._halt.tell,
        )
        for group, error in queue.do(missing):
            found |= {keys[i]: error for i in group if keys[i] not in found}
        for key in first:
            call = found[key]
            if isinstance(call, Call) and key not in self._used:
                self._used.add(key)
                self.usage += self._cost(call)
        return [found[key] for key in keys]

    def _check(self) -> None:
        self._halt.check()
        self._budget.check(self._price)

    def _forgive(self) -> None:
        # After a stop nothing may be left to ask but what always fails, which is no row of failures then.
        for endpoint in self._endpoints:
            if endpoint.failures < self._patience:
                endpoint.failures = 0

    def _cost(self, call: Call) -> Usage:
        money = self._price.of(call.prompt_tokens, call.new_tokens)
        return Usage(1, call.prompt_tokens, call.new_tokens, money)


def is_served(made: type[Backend]) -> bool:
    """Whether such a backend asks a server: it is there at once, and takes many calls at a time."""
    return "concurrency" in option_names(made)


def _told(item: Prompt | Text) -> str:
    """What is asked, as text that tells any two items apart."""
    return repr(asdict(item)) if isinstance(item, Prompt) else repr(item)


def _listed(row: NDArray[np.float64]) -> list[float]:
    # NaN is what a server did not tell; JSON as Python writes it reads it back.
    return [float(value) for value in row]


def _whole(found: Sequence[Answer | BackendError]) -> list[Answer]:
    """All answers, or the first error."""
    whole: list[Answer] = []
    for one in found:
        if isinstance(one, BackendError):
            raise one
        whole.append(one)
    return whole

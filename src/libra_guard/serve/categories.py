"""A guard's categories in OpenAI's 13 names, and as Libra's seven scenarios.

The systems cut the ground differently. A category of the guard goes to each of OpenAI's under which any of its harms
would be filed, with the share of its harms that would be: Libra's crime scenario has fifteen, one of them tied to
``sexual/minors``, which therefore gets a fifteenth of its score. Without the shares (as ``taxonomy.translate`` has it,
an upper bound) every question about theft would be reported as one about abused children.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from libra_guard.errors import UsageError
from libra_guard.taxonomy import SCENARIOS, SYSTEMS, CategorySystem, backward, forward, translate

OPENAI = SYSTEMS["openai"].codes
CLEAR = 0.5
"""A category of OpenAI's is set where a category of the guard has this score, and this share of it is tied to it."""
SCENARIOS_ZH = {scenario.name: scenario.name_zh for scenario in SCENARIOS}


class Categories:
    """Reads the categories of one system. Each is looked up once.

    Args:
        system: Of the guard; None where its categories are its user's own, which nothing is known of.
    """

    def __init__(self, system: CategorySystem | None) -> None:
        self._system = system
        self._shares: dict[str, dict[str, float]] = {}
        self._scenarios: dict[str, tuple[str, ...]] = {}

    def scores(self, categories: Mapping[str, float]) -> dict[str, float]:
        """Each of OpenAI's categories with a score in [0, 1]; 0 where nothing is tied to it."""
        best = dict.fromkeys(OPENAI, 0.0)
        for name, score in categories.items():
            for code, share in self._shares_of(name).items():
                best[code] = max(best[code], round(score * share, 4))
        return best

    def named(self, categories: Mapping[str, float], scenarios: Sequence[str] = ()) -> dict[str, bool]:
        """Which of OpenAI's categories the guard means; maybe none, for they have none for rumours and ethics.

        Args:
            categories: Of the guard, with their scores.
            scenarios: English names of those that the decision is for, the worst first. Where no category is clear,
                the one tied best to the first scenario that is tied to any is meant, so that a flag has a reason.
        """
        meant = dict.fromkeys(OPENAI, False)
        for name, score in categories.items():
            for code, share in self._shares_of(name).items():
                meant[code] |= score >= CLEAR and share >= CLEAR
        tied = next(filter(None, map(_shares_of_scenario, scenarios)), None)
        if tied and not any(meant.values()):
            scores = self.scores(categories)
            meant[max(tied, key=lambda code: (scores[code], tied[code]))] = True
        return meant

    def scenarios(self, categories: Mapping[str, float]) -> dict[str, float]:
        """English name of each of Libra's scenarios → score in [0, 1]; see ``taxonomy.translate``."""
        best = dict.fromkeys(SCENARIOS_ZH, 0.0)
        for name, score in categories.items():
            for scenario in self._scenarios_of(name):
                best[scenario] = max(best[scenario], score)
        return best

    def _shares_of(self, name: str) -> dict[str, float]:
        if name not in self._shares:
            self._shares[name] = _shares(self._subs(name))
        return self._shares[name]

    def _scenarios_of(self, name: str) -> tuple[str, ...]:
        if name not in self._scenarios:
            subs = dict.fromkeys(self._subs(name), 1.0)
            self._scenarios[name] = tuple(translate(subs, "libra-sub", "libra"))
        return self._scenarios[name]

    def _subs(self, name: str) -> tuple[str, ...]:
        """Libra's sub-categories that a category is tied to."""
        if self._system is None:
            return ()
        try:
            return backward(name, self._system.name)
        except UsageError:
            return ()


def _shares(subs: Sequence[str]) -> dict[str, float]:
    tied = [code for sub in subs for code in forward(sub, "openai")]
    return {code: tied.count(code) / len(subs) for code in dict.fromkeys(tied)}


@cache
def _shares_of_scenario(name: str) -> dict[str, float]:
    return _shares(tuple(backward(name, "libra")))

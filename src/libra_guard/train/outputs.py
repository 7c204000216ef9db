"""What a classifier tells apart beside safe and unsafe: a category system of the house, or names of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator

from libra_guard.backends.classifier_config import UNSAFE
from libra_guard.configuration import Strict
from libra_guard.records import Sample
from libra_guard.taxonomy import SCENARIOS, SUB_CATEGORIES, UNMAPPED, category_system, forward

_UNKNOWN = float("nan")
_NAMED = {"libra": "category_name"}
"""Systems whose names stand in the data themselves, and the field; the others are reached through sub-categories."""
_SUB_CATEGORIES = {sub.name: (sub.name,) for sub in SUB_CATEGORIES}
_MEMBERS = {s.name: tuple(sub.name for sub in s.sub_categories) for s in SCENARIOS}


class OwnOutputs(Strict):
    """Categories of one's own."""

    field: str = Field(min_length=1)
    """Of the samples, which holds one of the names, or a list of them."""
    names: list[Annotated[str, StringConstraints(min_length=1)]] = Field(min_length=1)

    @field_validator("names")
    @classmethod
    def _told_apart(cls, value: list[str]) -> list[str]:
        if len({UNSAFE, *value}) <= len(value):
            raise ValueError(f"each name stands there once, and '{UNSAFE}' is the first output's")
        return value


@dataclass(frozen=True)
class Outputs:
    """The classifier's outputs, and how a sample's targets are read."""

    labels: tuple[str, ...]
    """Names in order, ``unsafe`` first; codes of the system where there is one."""
    system: str | None
    """Name of the category system; None for names of one's own."""
    field: str
    """Of the samples, which tells the category."""

    @classmethod
    def of(cls, wanted: str | OwnOutputs) -> Self:
        """The outputs that a recipe asks for.

        Args:
            wanted: Name of a category system, or names of one's own. Categories that nothing in Libra's taxonomy is
                tied to (``UNMAPPED``) get no output, for no sample could teach it.

        Raises:
            UsageError: There is no such system.
        """
        if isinstance(wanted, OwnOutputs):
            return cls((UNSAFE, *wanted.names), None, wanted.field)
        system = category_system(wanted)
        codes = [code for code in system.codes if code not in UNMAPPED.get(system.name, {})]
        return cls((UNSAFE, *codes), system.name, _NAMED.get(system.name, "sub_category_name"))

    def targets(self, sample: Sample, *, unsafe: bool) -> tuple[float, ...]:
        """One for each of ``labels``, 1 or 0; NaN where the sample does not tell.

        Args:
            sample: Only its fields for the category are read.
            unsafe: The label that counts, which for a question may be another than the sample's.
        """
        if not unsafe:
            return (0.0,) * len(self.labels)
        if self.system is None or self.system in _NAMED:
            return (1.0, *self._by_name(sample))
        return (1.0, *_through_libra(self.system, self.labels[1:], sample.category_name, sample.sub_category_name))

    def _by_name(self, sample: Sample) -> list[float]:
        found = getattr(sample, self.field, None)
        given = found if isinstance(found, list) else [found]
        known = [float(name in given) for name in self.labels[1:]]
        return known if any(known) else [_UNKNOWN] * len(known)


@cache
def _through_libra(system: str, codes: tuple[str, ...], category: str, sub_category: str) -> tuple[float, ...]:
    """1 where the harm belongs to that category and no other, 0 where it cannot, NaN where it may.

    A sub-category may be tied to several, and of a sample whose sub-category is unknown all those of its scenario are
    possible, or all 39.
    """
    possible = _SUB_CATEGORIES.get(sub_category) or _MEMBERS.get(category) or tuple(_SUB_CATEGORIES)
    ties = [forward(sub, system) for sub in possible]
    return tuple(
        1.0 if all(tie == (code,) for tie in ties) else _UNKNOWN if any(code in tie for tie in ties) else 0.0
        for code in codes
    )

"""The table that the measures of quality print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(systems: Mapping[str, Mapping[str, Any]], shown: Sequence[str]) -> str:
    """A row a system, a column a set: the figures named in ``shown``; of sets of one label, how many were flagged."""
    sets = list(next(iter(systems.values())))
    lines = ["| | " + " | ".join(sets) + " |", "|---|" + "--:|" * len(sets)]
    for name, found in systems.items():
        cells = []
        for one in (found[s] for s in sets):
            two_classes = 0 < one["n_unsafe"] < one["n"]
            cells.append(" / ".join(f"{one[m]:.3f}" for m in shown) if two_classes else f"{one['over_refusal']:.1%}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)

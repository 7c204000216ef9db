"""Libra-Seed: this project's own contrasting pairs, in the Libra-Test format with ``kind`` and ``pair_id``.

Answers to one question share a ``pair_id``. Category names must be those of the taxonomy, or both empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from libra_guard.data.base import DatasetInfo, Rows
from libra_guard.data.libra_test import FIELDS, read_checked
from libra_guard.errors import DataError
from libra_guard.taxonomy import SUB_CATEGORIES, scenario

INFO = DatasetInfo(
    name="libra-seed",
    title="Libra-Seed: contrasting question–answer pairs of this project's own writing",
    address="data/libra-seed in the source repository of libra-guard",
    licence="Apache-2.0",
    language="zh",
    label_worth="written to the label by language models and read again by one; no person has labelled it",
    bundled_training=True,
    citation="the libra-guard project",
)

# A list: a row may hold anything, and a set could not look up what has no hash.
PLACES: list[tuple[Any, Any]] = [("", ""), *((scenario(sub.scenario).name, sub.name) for sub in SUB_CATEGORIES)]
"""Scenario and sub-category that a row can stand in; both empty for ordinary talk."""


def read(path: str | Path) -> Rows:
    """Reads the JSON lines files of a folder, or one of them."""
    return read_checked(INFO, path, (*FIELDS, "kind", "pair_id"), _check)


def _check(data: dict[str, Any]) -> None:
    place = (data["category_name"], data["sub_category_name"])
    if place not in PLACES:
        raise DataError(f"the taxonomy has no {' / '.join(map(repr, place))}")

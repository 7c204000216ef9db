"""XSTest: 250 harmless English questions that sound harmful, and 200 harmful ones beside them.

Fields read: ``prompt``, ``label`` (``safe`` or ``unsafe``); ``type``, ``focus`` and ``note`` are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from libra_guard.data.base import DatasetInfo, Rows, one_of, others, read_records, text

INFO = DatasetInfo(
    name="xstest",
    title="XSTest v2",
    address="hf://Paul/XSTest",
    licence="CC-BY-4.0",
    language="en",
    label_worth="by construction, by the authors",
    bundled_training=False,
    citation="Röttger et al., XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in LLMs, "
    "arXiv 2308.01263",
    revision="v2, with the field label",
    files={"xstest_prompts.csv": ""},
    holds="questions",
)

_HARMFUL = {"unsafe": True, "safe": False}


def read(path: str | Path) -> Rows:
    """Reads the questions from the CSV file, its folder, or the hub's dataset."""
    return read_records(INFO, path, _convert)


def _convert(data: dict[str, Any]) -> list[dict[str, Any]]:
    harmful = one_of(data, "label", _HARMFUL)
    return [{**others(data, "prompt", "label"), "question": text(data, "prompt"), "harmful": harmful}]

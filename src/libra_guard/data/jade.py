"""JADE's alignment pairs: a question with an answer that breaks the rules (违规回答) and one that is safe and useful.

Fields read: ``问题``, ``违规回答``, ``安全有用回答``; the files are GB18030. Each row gives two samples, ``-a`` 不安全
and ``-b`` 安全. Some 违规回答 do little more than repeat the question, and the safe answers share a tone of refusal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from libra_guard.data.base import DatasetInfo, Rows, others, read_records, text
from libra_guard.records import Label

INFO = DatasetInfo(
    name="jade",
    title="JADE-DB v3, alignment pairs, medium and hard, Chinese",
    address="https://github.com/whitzard-ai/jade-db",
    licence="MIT",
    language="zh",
    label_worth="constructed pairs; the style of refusal gives the label away",
    bundled_training=True,
    citation="Zhang et al., JADE: A Linguistics-based Safety Evaluation Platform for LLMs, arXiv 2311.00286",
    revision="v3",
    files={"jade_alignment_medium_zh.csv": "medium", "jade_alignment_hard_zh.csv": "hard"},
)

_ANSWERS = (("违规回答", Label.UNSAFE), ("安全有用回答", Label.SAFE))


def read(path: str | Path) -> Rows:
    """Reads the pairs from one of the two files or from their folder."""
    return read_records(INFO, path, _convert)


def _convert(data: dict[str, Any]) -> list[dict[str, Any]]:
    extra = others(data, "问题", *(name for name, _ in _ANSWERS))
    question = text(data, "问题")
    return [{**extra, "question": question, "response": text(data, name), "label": label} for name, label in _ANSWERS]

"""Chinese Alpaca: everyday instructions with their answers.

Read from ``question`` and ``response``, or from the published ``zh_instruction``, ``zh_input`` and ``zh_output``.
"""

from __future__ import annotations

from pathlib import Path

from libra_guard.data._benign import safe_pair
from libra_guard.data.base import DatasetInfo, Rows, read_records

INFO = DatasetInfo(
    name="alpaca-zh",
    title="Alpaca Chinese dataset",
    address="https://github.com/open-chinese/alpaca-chinese-dataset",
    licence="none given",
    language="zh",
    label_worth="safe by assumption; machine translation, corrected in part",
    bundled_training=False,
    citation="open-chinese/alpaca-chinese-dataset, after Taori et al., Stanford Alpaca, 2023",
    revision="v3",
    files={"alpaca_zh.jsonl": ""},
)

_convert = safe_pair((("zh_instruction", "zh_input"), "zh_output"))


def read(path: str | Path) -> Rows:
    """Reads the pairs from a file, or from a folder such as the published ``data_v3``."""
    return read_records(INFO, path, _convert)

"""Samples of one's own in the Libra-Test format: those of ``libra synth``, or any others.

``question``, ``response`` and ``label`` must be there; a row without an ``id`` is named by its content. Rows with
``root_question`` are split by that text.
"""

from __future__ import annotations

from pathlib import Path

from libra_guard.data.base import DatasetInfo, Rows
from libra_guard.data.libra_test import read_checked

INFO = DatasetInfo(
    name="samples",
    title="samples of your own in the Libra-Test format, such as those of libra synth",
    address="your files",
    licence="yours",
    language="zh",
    label_worth="yours",
    bundled_training=False,
    citation="none",
)


def read(path: str | Path) -> Rows:
    """Reads a file or a folder; an id, or without one the whole row, that was there before is a ``BadRow``."""
    return read_checked(INFO, path, ("question", "response", "label"))

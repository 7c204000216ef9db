"""Data sets by name. An importer is loaded when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from libra_guard.data.base import DatasetInfo, Rows
from libra_guard.errors import UsageError

DATASETS: dict[str, str] = {
    "libra-test": "libra_test",
    "libra-seed": "libra_seed",
    "samples": "samples",
    "cipherchat": "cipherchat",
    "jade": "jade",
    "safety-j": "safety_j",
    "smile": "smile",
    "alpaca-zh": "alpaca_zh",
    "lawyer-llama": "lawyer_llama",
    "cold": "cold",
    "chineseharm": "chineseharm",
    "shieldlm": "shieldlm",
    "beavertails": "beavertails",
    "wildguardmix": "wildguardmix",
    "aegis": "aegis",
    "safety-prompts": "safety_prompts",
    "s-eval": "s_eval",
    "xsafety": "xsafety",
    "flames": "flames",
    "do-not-answer-zh": "do_not_answer_zh",
    "strata-sword": "strata_sword",
    "toxicchat": "toxicchat",
    "xstest": "xstest",
}
"""Name → module of ``libra_guard.data`` with its ``INFO`` and ``read``."""


class Importer(NamedTuple):
    """A data set's description and how to read it."""

    info: DatasetInfo
    read: Callable[..., Rows]
    """``read(path, **options)``."""


def load_importer(name: str) -> Importer:
    """The importer of a data set.

    Raises:
        UsageError: The name is unknown.
    """
    if name not in DATASETS:
        raise UsageError(f"there is no data set '{name}'; there are: {', '.join(DATASETS)}")
    module = importlib.import_module(f"libra_guard.data.{DATASETS[name]}")
    return Importer(module.INFO, module.read)


def load_dataset_rows(name: str, path: str | Path, **options: Any) -> Rows:
    """Reads a data set's copy at ``path``: its samples or questions, and what makes none, in the order of the file.

    Args:
        name: A key of ``DATASETS``.
        path: A file, a folder, or ``hf://owner/name[@revision][:[config/]split]``.
        **options: Keyword arguments of the importer: ``min_fluency`` of ``cipherchat``.

    Raises:
        UsageError: The name or an option is unknown, or there is no such file.
    """
    read = load_importer(name).read
    try:
        inspect.signature(read).bind(path, **options)
    except TypeError as error:
        known = ", ".join(list(inspect.signature(read).parameters)[1:]) or "none"
        raise UsageError(f"the data set '{name}': {error}; its options are: {known}") from None
    return read(path, **options)

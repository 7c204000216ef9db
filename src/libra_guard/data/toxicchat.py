"""ToxicChat: what users really asked an open model, in English. The label is of the question, not of the answer.

Fields read: ``user_input``, ``toxicity`` (1 or 0); ``model_output``, ``jailbreaking``, ``human_annotation`` (false
where models agreed that it is harmless and no person looked) and the others are kept. Splits ``train`` and ``test``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from libra_guard.data.base import DatasetInfo, Rows, one_of, others, read_records, text

INFO = DatasetInfo(
    name="toxicchat",
    title="ToxicChat 0124",
    address="hf://lmsys/toxic-chat:toxicchat0124/",
    licence="CC-BY-NC-4.0",
    language="en",
    label_worth="people, on the half that models did not agree to be harmless; 7% toxic",
    bundled_training=False,
    citation="Lin et al., ToxicChat: Unveiling Hidden Challenges of Toxicity Detection in Real-World User-AI "
    "Conversation, arXiv 2310.17389",
    revision="toxicchat0124",
    files={"toxic-chat_annotation_train.csv": "train", "toxic-chat_annotation_test.csv": "test"},
    holds="questions",
)

_HARMFUL = {"1": True, "0": False}


def read(path: str | Path) -> Rows:
    """Reads the questions from a file, a folder, or a split of the hub's dataset."""
    return read_records(INFO, path, _convert)


def _convert(data: dict[str, Any]) -> list[dict[str, Any]]:
    harmful = one_of(data, "toxicity", _HARMFUL)
    return [{**others(data, "user_input"), "question": text(data, "user_input"), "harmful": harmful}]

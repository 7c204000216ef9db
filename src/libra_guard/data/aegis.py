"""Aegis 2.0 and 1.0: English conversations and single questions, labelled by people.

Fields read of 2.0: ``prompt``, ``prompt_label``, ``response``, ``response_label``, ``violated_categories``. An answer
without a label of its own, or no answer at all, leaves the question. Prompts that the authors had to redact make no
record. Of 1.0 (``hf://nvidia/Aegis-AI-Content-Safety-Dataset-1.0:train``): ``text``, ``text_type``, ``labels_0`` …
``labels_4`` (``Safe``, ``Needs Caution``, or kinds of harm); only the rows of type ``user_message``, because how the
others join their turns is not documented. The fields are as the cards and others' code name them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from libra_guard.data.base import DatasetInfo, Rows, one_of, others, read_records, text
from libra_guard.errors import DataError
from libra_guard.records import Label

INFO = DatasetInfo(
    name="aegis",
    title="Aegis AI Content Safety Dataset 2.0, and the questions of 1.0",
    address="hf://nvidia/Aegis-AI-Content-Safety-Dataset-2.0",
    licence="CC-BY-4.0; prompts from several other sets",
    language="en",
    label_worth="people label the conversation, a jury of three models most answers (response_label_source tells)",
    bundled_training=False,
    citation="Ghosh et al., AEGIS2.0: A Diverse AI Safety Dataset and Risks Taxonomy for Alignment of LLM Guardrails, "
    "NAACL 2025; AEGIS 1.0, arXiv 2404.05993",
    revision="2.0, and the older form of 1.0",
    holds="both",
)

_HARMFUL = {"unsafe": True, "safe": False}
_LABELS = {"unsafe": Label.UNSAFE, "safe": Label.SAFE}


def read(path: str | Path) -> Rows:
    """Reads samples and questions from a file, a folder, or a split of the hub's dataset."""
    return read_records(INFO, path, _convert)


def _convert(data: dict[str, Any]) -> list[dict[str, Any]]:
    if "text_type" in data:
        return [_first_form(data)]
    if text(data, "prompt").strip() == "REDACTED":
        raise DataError("the prompt is redacted")
    question = {**others(data, "prompt"), "question": data["prompt"]}
    if not data.get("response") or not data.get("response_label"):
        return [question | {"harmful": one_of(data, "prompt_label", _HARMFUL)}]
    return [question | {"response": text(data, "response"), "label": one_of(data, "response_label", _LABELS)}]


def _first_form(data: dict[str, Any]) -> dict[str, Any]:
    if (kind := text(data, "text_type")) != "user_message":
        raise DataError(f"the text is of type '{kind}', whose turns cannot be told apart")
    votes = [str(value) for i in range(5) if (value := data.get(f"labels_{i}")) not in (None, "", "None")]
    safe = votes.count("Safe")
    unsafe = len(votes) - safe - votes.count("Needs Caution")
    harmful = True if 2 * unsafe > len(votes) else False if 2 * safe > len(votes) else None
    return {**others(data, "text"), "question": text(data, "text"), "harmful": harmful}

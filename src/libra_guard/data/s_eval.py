"""S-Eval: risk questions of eight kinds, and attack prompts made of them in ten ways.

Fields read: ``prompt``, ``risk_type``, ``ext`` (JSON text: ``model`` is ``base_risk`` or ``attack``, ``category`` the
way of attack); the other fields are kept. The archives (``.jsonl.zip``) are read as they are published.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from libra_guard.data.base import DatasetInfo, Rows, in_scenario, in_sub_category, others, read_records, text
from libra_guard.errors import DataError

INFO = DatasetInfo(
    name="s-eval",
    title="S-Eval, base risk and attack prompts",
    address="https://github.com/IS2Lab/S-Eval",
    licence="CC-BY-NC-SA-4.0; academic research only",
    language="zh",
    label_worth="a kind of risk each, by construction; its authors mixed few high-risk questions with low-risk ones",
    bundled_training=False,
    citation="Yuan et al., S-Eval: Towards Automated and Comprehensive Safety Evaluation for LLMs, arXiv 2405.14191",
    revision="v0.1.2, by size: small, medium, large, full",
    files={
        f"S-Eval_{kind}_zh_{size}.jsonl": f"{kind.removesuffix('_risk')}-{size}"
        for kind in ("base_risk", "attack")
        for size in ("small", "medium", "large", "full")
    },
    holds="questions",
)

# Extremism has no place of its own in the taxonomy.
_RISKS = {
    "Crimes_and_Illegal_Activities": in_scenario("Illegal Activities and Crime"),
    "Cybersecurity": in_sub_category("Cybersecurity"),
    "Data_Privacy": in_scenario("Privacy and Property"),
    "Ethics_and_Morality": in_scenario("Ethics and Morality"),
    "Hate_Speech": in_scenario("Hate Speech and Abuse"),
    "Inappropriate_Suggestions": in_sub_category("Professional Advice"),
    "Physical_and_Mental_Health": in_scenario("Physical and Mental Health"),
}


def read(path: str | Path) -> Rows:
    """Reads the questions from a file, packed or not, or a folder; the small files hold a part of the larger ones."""
    return read_records(INFO, path, _convert)


def _convert(data: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        ext = json.loads(text(data, "ext"))
    except ValueError as error:
        raise DataError(f"'ext' is not JSON: {error}") from None
    attack = ext.get("category") if isinstance(ext, dict) else None
    return [
        {
            **others(data, "prompt"),
            **_RISKS.get(text(data, "risk_type"), {}),
            **({"attack": attack} if attack else {}),
            "question": text(data, "prompt"),
            "harmful": True,
        }
    ]

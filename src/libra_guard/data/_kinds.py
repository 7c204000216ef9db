"""Seven kinds of harm of Safety-Prompts (arXiv 2304.10436), which CipherChat and XSafety took over, as scenarios.

Their other kinds are ways of asking (role play, reverse exposure, …): they say nothing of the kind of harm.
"""

from __future__ import annotations

from libra_guard.data.base import in_scenario

_SCENARIOS = {
    "crimes and illegal activities": "Illegal Activities and Crime",
    "ethics and morality": "Ethics and Morality",
    "insult": "Hate Speech and Abuse",
    "mental health": "Physical and Mental Health",
    "physical harm": "Physical and Mental Health",
    "privacy and property": "Privacy and Property",
    "unfairness and discrimination": "Bias and Discrimination",
}


def of_kind(name: str) -> dict[str, str]:
    """``category_name`` for a kind, its words joined by blanks, ``-`` or ``_``; empty for the other kinds."""
    return in_scenario(_SCENARIOS.get(name.lower().replace("-", " ").replace("_", " "), ""))

"""Actions for NeMo Guardrails that ask Libra's server; NeMo loads this file with the configuration beside it.

pip install nemoguardrails 'libra-guard[serve]'
"""

from __future__ import annotations

import os
from typing import Any

from nemoguardrails.actions import action
from nemoguardrails.actions.rail_outcome import RailOutcome

from libra_guard import AsyncClient


@action(name="libra_check_input")
async def libra_check_input(context: dict[str, Any]) -> RailOutcome:
    """Judges what the user said."""
    return await _outcome(context["user_message"])


@action(name="libra_check_output")
async def libra_check_output(context: dict[str, Any]) -> RailOutcome:
    """Judges the answer together with what was asked."""
    return await _outcome(context["user_message"], context["bot_message"])


async def _outcome(question: str, response: str | None = None) -> RailOutcome:
    # An error is raised, which NeMo makes a block of.
    async with AsyncClient(os.environ.get("LIBRA_URL", "http://127.0.0.1:8300")) as client:
        judged = await client.check(question, response)
    told = {"scenarios": judged.decision.scenarios, "unsafe_score": judged.unsafe_score}
    return (RailOutcome.block if judged.blocked else RailOutcome.allow)(reason=judged.decision.reason, metadata=told)

"""A guardrail for LiteLLM's proxy: questions before the call, answers after it. See litellm.yaml.

pip install 'litellm[proxy]' 'libra-guard[serve]'
"""

from __future__ import annotations

from typing import Any

from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_guardrail import CustomGuardrail

from libra_guard import AsyncClient, Conversation


class LibraGuardrail(CustomGuardrail):
    """Blocks what Libra's policy blocks. An error of the server blocks too: it is raised."""

    streaming_buffer_until_moderated = True
    """A stream waits until all of it is judged; LiteLLM else judges at every fifth chunk and sends those between."""

    def __init__(self, api_base: str = "http://127.0.0.1:8300", api_key: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.client = AsyncClient(api_base, api_key)

    async def apply_guardrail(
        self, inputs: Any, request_data: dict[str, Any], input_type: str, logging_obj: Any = None
    ) -> Any:
        """Called by LiteLLM with the texts of a request or of an answer."""
        question = _question(request_data)
        texts = [text for text in inputs.get("texts", []) if text.strip()]
        if input_type == "response":
            conversations = [
                Conversation.from_pair(question, text) if question else Conversation.from_answer(text) for text in texts
            ]
        else:
            # What stands before the last question was judged when it was the last.
            conversations = [Conversation.from_pair(text) for text in ([question] if question else texts)]
        for judged in await self.client.judge(conversations):
            if judged.blocked:
                raise GuardrailRaisedException(self.guardrail_name, judged.decision.reason, blocked_content=True)
        return inputs


def _question(request: dict[str, Any]) -> str:
    """The last user message, of its text parts where it has several."""
    for message in reversed(request.get("messages") or []):
        if message["role"] == "user":
            content = message["content"]
            parts = content if isinstance(content, list) else [{"text": content}]
            return "\n".join(part["text"] for part in parts if part.get("text")).strip()
    return ""

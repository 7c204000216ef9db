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
        new = _new(request_data.get("messages") or [])
        question = "\n".join(_texts(new, "user"))
        given = [text for text in inputs.get("texts", []) if text.strip()]
        if input_type == "response":
            conversations = _answers(question, given)
        else:
            # Anybody could have written what tools returned. The assistant's words are those the caller begins with.
            asked = [question, *_texts(new, "tool", "function")] if question else given
            conversations = [*map(Conversation.from_pair, asked), *_answers(question, _texts(new, "assistant"))]
        for judged in await self.client.judge(conversations):
            if judged.blocked:
                raise GuardrailRaisedException(self.guardrail_name, judged.decision.reason, blocked_content=True)
        return inputs


def _new(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages since the last answer before the last question: what stands before was judged when it was new."""
    last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=0)
    while last and (messages[last - 1].get("tool_calls") or not _texts([messages[last - 1]], "assistant")):
        last -= 1
    return messages[last:]


def _texts(messages: list[dict[str, Any]], *roles: str) -> list[str]:
    texts = [_text(message.get("content")) for message in messages if message["role"] in roles]
    return [text for text in texts if text.strip()]


def _text(content: Any) -> str:
    """A message's text; of its parts, that in a tool's result too."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or _text(part.get("content")) for part in content or [])


def _answers(question: str, texts: list[str]) -> list[Conversation]:
    return [Conversation.from_pair(question, text) if question else Conversation.from_answer(text) for text in texts]

"""The Anthropic Messages API."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import anthropic

from libra_guard.backends._options import at_least, more_than
from libra_guard.backends._remote import Remote, bounded_client, check_address, deciding, reading
from libra_guard.backends.base import Backend, Completion, Prompt
from libra_guard.backends.control_tokens import KNOWN, neutralise
from libra_guard.errors import UsageError
from libra_guard.records import Method, Role

_SAMPLING_VERSION = "2023-06-01"


class AnthropicBackend(Backend):
    """Asks a Claude model. It generates text and tells no probabilities.

    A prompt's prefix is sent as the beginning of the answer only with ``continue_final``; elsewhere the whole answer
    comes back (``continues`` is False). Newer API versions and models have no temperature and no seed, so the same
    question may be answered differently the next time; ``sampling`` brings the temperature back for older models.

    Args:
        model: Name of the model.
        base_url: By default ``ANTHROPIC_BASE_URL`` or Anthropic.
        api_key: By default ``ANTHROPIC_API_KEY``.
        concurrency: Requests at a time.
        timeout: Seconds to wait for the server in one attempt.
        retries: Further attempts after the first.
        backoff: Seconds before the second attempt; doubled for each next one.
        max_backoff: Seconds that a pause may grow to.
        continue_final: Whether the model goes on from a last assistant message; newer ones refuse it.
        sampling: Whether to send the temperature, under API version 2023-06-01.
        context: Tokens that the model takes, where known; longer texts are then judged in windows.
        extra_body: Further fields of every request, e.g. ``thinking``; they override Libra's own.

    Raises:
        UsageError: There is no key, or a number makes no sense.
    """

    name: ClassVar[str] = "anthropic"
    capabilities = frozenset({Method.GENERATE})

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 0.5,
        max_backoff: float = 30.0,
        continue_final: bool = False,
        sampling: bool = False,
        context: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        more_than(0, timeout=timeout)
        at_least(1, context=context)
        api_key = api_key or os.environ.get("ANTHROPIC_API_KEY")
        if not api_key:
            raise UsageError("set ANTHROPIC_API_KEY")
        check_address(base_url or os.environ.get("ANTHROPIC_BASE_URL"))
        self._client: Any = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            timeout=timeout,
            max_retries=0,
            http_client=bounded_client(anthropic),
        )
        self._remote = Remote(
            self.name,
            anthropic,
            self._client.close,
            address=self._client.base_url.netloc.decode(),
            concurrency=concurrency,
            retries=retries,
            backoff=backoff,
            max_backoff=max_backoff,
        )
        self._model, self._sampling, self._extra_body = model, sampling, dict(extra_body or {})
        self.continues, self.greedy = continue_final, sampling
        self.context = context

    def generate(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[str]:
        """See the base class; where ``continues`` is False, the whole answer. The API takes no seed.

        Raises:
            UsageError: A prompt is raw, or a temperature is asked for that would not be sent.
            BackendError: The server failed for good.
        """
        done = self.complete(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)
        return [completion.text for completion in done]

    def complete(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[Completion]:
        """See the base class."""
        if any(prompt.raw for prompt in prompts):
            raise UsageError("the Messages API takes no raw prompts; use the chat form")
        if temperature > 0 and not self._sampling:
            raise UsageError("the Messages API takes no temperature; for older models set sampling=True")

        async def ask(prompt: Prompt) -> Completion:
            answer = await self._client.messages.create(**self._request(prompt, max_tokens, temperature))
            with reading("text"):
                text = "".join(block.text for block in answer.content if block.type == "text")
                used, cut = answer.usage, answer.stop_reason == "max_tokens"
                return Completion(text, used.input_tokens, used.output_tokens, cut)

        return self._remote.map(ask, prompts, ("generate", max_tokens, temperature, seed))

    def provenance(self) -> dict[str, Any]:
        """See the base class; every option that may change an answer is among ``options``."""
        options = {
            "continue_final": self.continues,
            "sampling": self._sampling,
            "context": self.context,
            "extra_body": self._extra_body,
        }
        return {
            "backend": self.name,
            "model": self._model,
            "base_url": str(self._client.base_url),
            "options": deciding(type(self), options),
            "anthropic": anthropic.__version__,
        }

    def cancel(self) -> None:
        """See the base class."""
        self._remote.cancel()

    def close(self) -> None:
        """Ends the connections; also done when the backend is forgotten."""
        self._remote.close()

    def _request(self, prompt: Prompt, max_tokens: int, temperature: float) -> dict[str, Any]:
        texts = [(m.role, neutralise(m.content, KNOWN)) for m in prompt.messages]
        messages = [{"role": role.value, "content": text} for role, text in texts if role is not Role.SYSTEM]
        system = "\n\n".join(text for role, text in texts if role is Role.SYSTEM)
        if self.continues and prompt.prefix:
            messages.append({"role": "assistant", "content": prompt.prefix})
        request: dict[str, Any] = {"model": self._model, "messages": messages, "max_tokens": max_tokens}
        body = dict(self._extra_body)
        if self._sampling:
            request["extra_headers"] = {"anthropic-version": _SAMPLING_VERSION}
            body.setdefault("temperature", temperature)
        return {**request, **({"system": system} if system else {}), **({"extra_body": body} if body else {})}

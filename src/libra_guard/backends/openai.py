"""Any server that speaks the OpenAI API: OpenAI's own, vLLM, SGLang, llama.cpp, Ollama and many more."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import openai
from numpy.typing import NDArray
from openai.types.chat.chat_completion import ChoiceLogprobs

from libra_guard.backends._options import at_least, more_than
from libra_guard.backends._remote import Remote, bounded_client, check_address, deciding, reading
from libra_guard.backends._top_logprobs import Step, read_choices
from libra_guard.backends.base import Backend, Completion, Prompt, Scored
from libra_guard.backends.control_tokens import KNOWN, neutralise
from libra_guard.errors import UsageError
from libra_guard.records import Method


class OpenAIBackend(Backend):
    """Asks a server through chat completions; raw prompts through plain completions.

    The server's tokenizer cannot be seen, so in messages all control tokens of common model families are broken
    apart (``control_tokens.KNOWN``). A prompt's prefix reaches the server only where it can go on from it: with
    ``continue_final``, and for raw prompts. Elsewhere the whole answer comes back (``continues`` is False).

    Args:
        model: The server's name for it.
        base_url: The server, e.g. ``http://127.0.0.1:8000/v1``; by default ``OPENAI_BASE_URL`` or OpenAI.
        api_key: By default ``OPENAI_API_KEY``; a server of one's own often needs none.
        concurrency: Requests at a time.
        timeout: Seconds to wait for the server in one attempt.
        retries: Further attempts after the first.
        backoff: Seconds before the second attempt; doubled for each next one.
        max_backoff: Seconds that a pause may grow to.
        logprobs: Whether the server sends log probabilities; makes ``choose`` possible.
        top_logprobs: How many of them to ask for at each token.
        continue_final: Whether the server can go on from a last assistant message (``continue_final_message`` of
            vLLM and SGLang).
        context: Tokens that the model takes, where known; longer texts are then judged in windows.
        extra_body: Further fields of every request; they override Libra's own.

    Raises:
        UsageError: There is no key for OpenAI, or a number makes no sense.
    """

    name: ClassVar[str] = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout: float = 60.0,
        retries: int = 5,
        backoff: float = 0.5,
        max_backoff: float = 30.0,
        logprobs: bool = False,
        top_logprobs: int = 20,
        continue_final: bool = False,
        context: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        more_than(0, timeout=timeout)
        at_least(1, top_logprobs=top_logprobs, context=context)
        base_url = base_url or os.environ.get("OPENAI_BASE_URL")
        check_address(base_url)
        api_key = api_key or os.environ.get("OPENAI_API_KEY")
        if not api_key and not base_url:
            raise UsageError("set OPENAI_API_KEY, or give the base_url of a server that needs no key")
        # Untyped: the overloads of the SDK do not know of the fields of other servers.
        self._client: Any = openai.AsyncOpenAI(
            api_key=api_key or "EMPTY",
            base_url=base_url,
            timeout=timeout,
            max_retries=0,
            http_client=bounded_client(openai),
        )
        self._remote = Remote(
            self.name,
            openai,
            self._client.close,
            address=self._client.base_url.netloc.decode(),
            concurrency=concurrency,
            retries=retries,
            backoff=backoff,
            max_backoff=max_backoff,
        )
        self._model, self._top, self._extra_body = model, top_logprobs, dict(extra_body or {})
        # OpenAI's newer models refuse the old name, other servers may not know the new one.
        own = "api.openai.com" in str(self._client.base_url)
        self._limit = "max_completion_tokens" if own else "max_tokens"
        self.continues = continue_final
        self.context = context
        self.capabilities = frozenset({Method.GENERATE, Method.CHOOSE} if logprobs else {Method.GENERATE})

    def generate(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[str]:
        """See the base class; where ``continues`` is False, the whole answer to a prompt that is not raw."""
        done = self.complete(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)
        return [completion.text for completion in done]

    def complete(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[Completion]:
        """See the base class."""

        async def ask(prompt: Prompt) -> Completion:
            answer = await self._ask(prompt, max_tokens, temperature=temperature, seed=seed)
            with reading("text"):
                said = answer.choices[0]
                text = (said.text if prompt.raw else said.message.content) or ""
                cut = said.finish_reason == "length"
                if answer.usage is None:
                    return self.counted(prompt, text, max_tokens)._replace(cut=cut)
                return Completion(text, answer.usage.prompt_tokens, answer.usage.completion_tokens, cut)

        return self._remote.map(ask, prompts, ("generate", max_tokens, temperature, seed))

    def choose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> NDArray[np.float64]:
        """What the server's top log probabilities tell of each choice; see ``read_choices`` for what that is.

        Greedy tokens are generated and read at the place of the choice: at once for raw and continued prompts, else
        behind the prefix that the answer has to spell itself.

        Returns:
            Shape ``(len(prompts), len(choices))``. NaN where the server sent no log probabilities, or the answer
            does not begin with the prefix; 0 where no listed token leads to a choice.
        """
        if Method.CHOOSE not in self.capabilities:
            return super().choose(prompts, choices)
        rows = [scored.row for scored in self.score(prompts, choices)]
        return np.array(rows, dtype=np.float64).reshape(len(prompts), len(choices))

    def score(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[Scored]:
        """See the base class and ``choose``."""
        if Method.CHOOSE not in self.capabilities:
            return super().score(prompts, choices)
        if not choices or not all(choices):
            raise UsageError("choices must be given, and none may be empty")

        async def ask(prompt: Prompt) -> Scored:
            prefix = "" if prompt.raw or self.continues else prompt.prefix
            # At most one token a character, and some room for white space of the model's own liking.
            limit = max(map(len, choices)) + 1 + (len(prefix) + 16 if prefix else 0)
            wanted = {"logprobs": self._top} if prompt.raw else {"logprobs": True, "top_logprobs": self._top}
            answer = await self._ask(prompt, limit, temperature=0.0, **wanted)
            with reading("log probabilities"):
                found = answer.choices[0].logprobs
                steps = _completion_steps(found) if prompt.raw else _chat_steps(found)
            row = np.array(read_choices(steps, choices, prefix), dtype=np.float64)
            if answer.usage is None:
                return Scored(row, self.overhead(prompt))
            return Scored(row, answer.usage.prompt_tokens, answer.usage.completion_tokens)

        return self._remote.map(ask, prompts, ("choose", *choices))

    def provenance(self) -> dict[str, Any]:
        """See the base class; every option that may change an answer is among ``options``."""
        options = {
            "logprobs": Method.CHOOSE in self.capabilities,
            "top_logprobs": self._top,
            "continue_final": self.continues,
            "context": self.context,
            "extra_body": self._extra_body,
        }
        return {
            "backend": self.name,
            "model": self._model,
            "base_url": str(self._client.base_url),
            "options": deciding(type(self), options),
            "openai": openai.__version__,
        }

    def cancel(self) -> None:
        """See the base class."""
        self._remote.cancel()

    def close(self) -> None:
        """Ends the connections; also done when the backend is forgotten."""
        self._remote.close()

    async def _ask(self, prompt: Prompt, limit: int, **settings: Any) -> Any:
        texts = prompt.texts(lambda text: neutralise(text, KNOWN))
        if prompt.raw:
            text = prompt.raw_text(lambda text: neutralise(text, KNOWN))
            return await self._client.completions.create(
                model=self._model, prompt=text, max_tokens=limit, extra_body=self._extra_body, **settings
            )
        messages = [{"role": m.role.value, "content": t} for m, t in zip(prompt.messages, texts, strict=True)]
        body: dict[str, Any] = {}
        if prompt.template_options:
            body["chat_template_kwargs"] = prompt.template_options
        if self.continues and prompt.prefix:
            messages.append({"role": "assistant", "content": prompt.prefix})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        settings[self._limit] = limit
        return await self._client.chat.completions.create(
            model=self._model, messages=messages, extra_body={**body, **self._extra_body}, **settings
        )


def _chat_steps(found: Any) -> list[Step]:
    entries = (found.content if found else None) or []
    return [Step.of(_bytes(e), e.logprob, [(_bytes(t), t.logprob) for t in e.top_logprobs or ()]) for e in entries]


def _bytes(entry: Any) -> bytes:
    return entry.token.encode() if entry.bytes is None else bytes(entry.bytes)


def _completion_steps(found: Any) -> list[Step]:
    if content := (getattr(found, "model_extra", None) or {}).get("content"):
        # llama.cpp's servers send the form of chat completions here too.
        return _chat_steps(ChoiceLogprobs.model_validate({"content": content}))
    if not found or not found.tokens or not found.token_logprobs:
        return []
    tops = found.top_logprobs or [{}] * len(found.tokens)
    together = zip(found.tokens, found.token_logprobs, tops, strict=True)
    return [Step.of(t.encode(), log, [(s.encode(), x) for s, x in (top or {}).items()]) for t, log, top in together]

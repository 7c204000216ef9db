"""Runs pretrained models in this process, through transformers."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import modeling_utils

from libra_guard.backends import _pretrained
from libra_guard.backends._options import at_least
from libra_guard.backends._running import failures, run_batches, seeded
from libra_guard.backends._shared_prefix import SharedPrefix
from libra_guard.backends.base import Backend, Prompt, Span, Text
from libra_guard.backends.encoding import Encoder, Row, batches
from libra_guard.errors import RefusedError, UsageError
from libra_guard.records import Method

# Newer versions of transformers take other positions for each row, older ones the same for all rows.
_KEEPS_PER_ROW = hasattr(modeling_utils, "slice_logits_to_keep")


class TransformersBackend(Backend):
    """Any causal language model (``generate``, ``choose``) or sequence classifier (``logits``).

    Texts are never cut: what does not fit the context is an error. In messages and in classifiers' texts, strings
    that are control tokens of this tokenizer are broken apart (``control_tokens``); a prompt's prefix is the
    guard's own and stays as it is.

    Args:
        model: A model folder, a LoRA adapter's folder (which names its base model), or a hub name. Weights are
            loaded from safetensors only.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:N``.
        dtype: ``auto`` (as stored, but float32 on a CPU), ``float32``, ``bfloat16`` or ``float16``.
        adapter: A LoRA adapter's folder or hub name; merged into the weights.
        revision: Of the model on the hub.
        trust_remote_code: Whether the model may bring code of its own.
        max_batch_tokens: Rows of a batch × tokens of its longest row stay within this; one row always goes. A batch
            for which memory does not suffice is halved.
        share_prefix: Whether the tokens with which all prompts of ``choose`` begin are computed only once.

    Raises:
        UsageError: The model is not there, or not of a form that can be run, or there is to be no batch.
        BackendError: The device has no memory for the model.
    """

    name: ClassVar[str] = "transformers"

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        adapter: str | Path | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        max_batch_tokens: int = 8192,
        share_prefix: bool = True,
    ) -> None:
        at_least(1, max_batch_tokens=max_batch_tokens)
        loaded = _pretrained.load(
            str(model),
            adapter=None if adapter is None else str(adapter),
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            device=device,
        )
        self._model, tokenizer = loaded.model, loaded.tokenizer
        self._encoder = Encoder(tokenizer, str(model))
        self._about = loaded.about
        self._max_batch_tokens = max_batch_tokens
        self._lock = threading.Lock()
        config = self._model.config.get_text_config(decoder=True)
        self.context = _pretrained.context(config, tokenizer)
        self._pad = _first(tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        if loaded.classifier:
            self.capabilities = frozenset({Method.LOGITS})
            self.config: dict[str, Any] = self._model.config.to_dict()
            # Decoders find a row's last token by it, and often their configs name none.
            config.pad_token_id = self._model.config.pad_token_id = self._pad
            return
        self.capabilities = frozenset({Method.GENERATE, Method.CHOOSE})
        self._keeps = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._prefix = SharedPrefix(self._model, {"logits_to_keep": 1} if self._keeps else {}) if share_prefix else None
        # No other default of the model's own (sampling, repetition penalty) may fill in what a call leaves open.
        stops = _first(self._model.generation_config.eos_token_id, tokenizer.eos_token_id, [])
        self._stops = stops if isinstance(stops, list) else [stops]
        self._ending = {"eos_token_id": self._stops or None, "pad_token_id": self._pad}
        self._model.generation_config = transformers.GenerationConfig(**self._ending)

    def generate(
        self, prompts: Sequence[Prompt], *, max_tokens: int = 256, temperature: float = 0.0, seed: int = 42
    ) -> list[str]:
        """See the base class; an answer also ends where the context is full.

        Sampled texts depend on the batches, hence on all prompts of the call and on ``max_batch_tokens``.
        """
        if Method.GENERATE not in self.capabilities:
            return super().generate(prompts)
        rows = self._encoder.prompts(prompts)
        self._check([len(row) + 1 for row in rows])
        limits = [max_tokens if self.context is None else min(max_tokens, self.context - len(row)) for row in rows]
        how: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        texts = [""] * len(rows)
        sizes = [len(row) + limit for row, limit in zip(rows, limits, strict=True)]

        def run(batch: list[int]) -> None:
            settings = transformers.GenerationConfig(max_new_tokens=limits[batch[0]], **self._ending, **how)
            ids, mask = self._padded([rows[i] for i in batch], left=True)
            spoken = self._model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            new = self._encoder.decode(spoken[:, ids.shape[1] :].tolist(), self._stops)
            for i, text in zip(batch, new, strict=True):
                texts[i] = text

        with self._running(), seeded(seed, self._model.device):
            run_batches(batches(sizes, self._max_batch_tokens, limits), run)
        return texts

    def choose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> NDArray[np.float64]:
        """See the base class: the product of P(token) over the tokens that a choice adds to the prompt.

        Where the tokenizer merges the prompt's end with a choice's beginning, all choices are scored from the
        token before: their probabilities are then those of that end and the choice together.

        Raises:
            UsageError: There is no choice, or an empty one.
        """
        if Method.CHOOSE not in self.capabilities:
            return super().choose(prompts, choices)
        if not choices or not all(choices):
            raise UsageError("choices must be given, and none may be empty")
        logs = np.zeros((len(prompts), len(choices)))
        if not prompts:
            return logs
        rows = self._encoder.rows(prompts, choices)
        lengths = [len(row.ids) for row in rows]
        self._check(lengths)
        with self._running():
            limit = min(row.start for row in rows)
            shared = self._prefix.prepare([row.ids for row in rows], limit) if self._prefix else 0
            found = batches(lengths, self._max_batch_tokens)
            run_batches(found, lambda batch: self._score([rows[i] for i in batch], shared, logs))
        return np.exp(logs)

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """See the base class."""
        if Method.LOGITS not in self.capabilities:
            return super().logits(texts)
        rows = self._encoder.classified(texts)
        lengths = [len(row["input_ids"]) for row in rows]
        self._check(lengths)
        logits = np.zeros((len(texts), self._model.config.num_labels))

        def run(batch: list[int]) -> None:
            ids, mask = self._padded([rows[i]["input_ids"] for i in batch])
            inputs = {"input_ids": ids, "attention_mask": mask}
            if "token_type_ids" in rows[batch[0]]:
                # The padding's type is masked out with it.
                inputs["token_type_ids"], _ = self._padded([rows[i]["token_type_ids"] for i in batch], fill=0)
            logits[batch] = self._model(**inputs).logits.double().cpu().numpy()

        with self._running():
            run_batches(batches(lengths, self._max_batch_tokens), run)
        return logits

    def spans(self, texts: Sequence[str]) -> list[list[Span]]:
        """See the base class; a control token in the text counts as the pieces into which it is broken."""
        spans = self._encoder.spans(texts)
        return super().spans(texts) if spans is None else spans

    def overhead(self, prompt: Prompt) -> int:
        """See the base class."""
        return len(self._encoder.prompts([prompt])[0])

    def provenance(self) -> dict[str, Any]:
        """See the base class."""
        return {"backend": self.name, **self._about}

    @contextmanager
    def _running(self) -> Iterator[None]:
        """One call at a time, without gradients, its errors in words."""
        with self._lock, torch.inference_mode(), failures(str(self._about["model"]), self._model.device):
            yield

    def _check(self, lengths: Sequence[int]) -> None:
        if self.context is not None and max(lengths, default=0) > self.context:
            raise RefusedError(f"an input takes {max(lengths)} tokens, the model '{self._about['model']}' "
                               f"takes {self.context}")  # fmt: skip

    def _padded(
        self, rows: Sequence[list[int]], *, left: bool = False, fill: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows filled up to one length, and 1 where there are real tokens; both of shape ``(rows, length)``."""
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self._pad if fill is None else fill)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return ids.to(self._model.device), mask.to(self._model.device)

    def _score(self, rows: Sequence[Row], shared: int, logs: NDArray[np.float64]) -> None:
        """Adds the log probabilities of each row's choices to ``logs``, of shape ``(prompts, choices)``."""
        # Causal attention never sees the padding on the right, so no mask is needed.
        ids, _ = self._padded([row.ids[shared:] for row in rows])
        steps = max(len(tokens) for row in rows for tokens in row.choices.values())
        first = torch.tensor([[row.start - shared] for row in rows])
        where = (first + torch.arange(steps)).clamp(max=ids.shape[1] - 1).to(ids.device)
        found = torch.log_softmax(self._logits_at(ids, where, shared).float(), dim=-1)
        reads = [
            (b, k, token, row.prompt, j)
            for b, row in enumerate(rows)
            for j, tokens in row.choices.items()
            for k, token in enumerate(tokens)
        ]
        b, k, token, prompt, choice = map(list, zip(*reads, strict=True))
        np.add.at(logs, (prompt, choice), found[b, k, token].double().cpu().numpy())

    def _logits_at(self, ids: torch.Tensor, where: torch.Tensor, shared: int) -> torch.Tensor:
        """Logits at positions ``where`` of shape ``(rows, k)``: shape ``(rows, k, vocabulary)``."""
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": shared > 0}
        if shared and self._prefix:
            inputs["past_key_values"] = self._prefix.cache(len(ids))
        if self._keeps and _KEEPS_PER_ROW:
            logits: torch.Tensor = self._model(**inputs, logits_to_keep=where).logits
            return logits
        if self._keeps:
            kept, where = where.unique(return_inverse=True)
            inputs["logits_to_keep"] = kept
        logits = self._model(**inputs).logits
        return logits.gather(1, where[..., None].expand(-1, -1, logits.shape[-1]))


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)

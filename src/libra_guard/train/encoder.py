"""The deep part: a pretrained backbone, cut to size, with one output for each label, trained stage by stage."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from libra_guard.backends.base import Text
from libra_guard.backends.control_tokens import neutralise
from libra_guard.train.backbone import Backbone, closes, layers_of, load_backbone
from libra_guard.train.mixture import Example, target_array
from libra_guard.train.recipe import Encoder, Stage

Report = Callable[[str], None]
_BUCKET = 20
_LARGEST_WEIGHT = 10.0


class EncoderClassifier(nn.Module):
    """A backbone, pooling over its tokens, dropout, a linear head: ``(batch, length)`` ids → ``(batch, outputs)``.

    Texts of a batch are padded on the right. Over a last token's state the head has no bias, as in transformers' own
    sequence classifiers.
    """

    def __init__(self, backbone: Backbone, outputs: int) -> None:
        super().__init__()
        self.encoder: nn.Module = backbone.model
        self.causal, self.pooling = backbone.causal, backbone.pooling
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(backbone.model.config.hidden_size, outputs, bias=not backbone.native)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Logits, float32; without a mask every token counts, as in a text that stands alone."""
        seen = attention_mask
        if seen is None and self.causal:
            # Without one, these models look for several texts in a row, by an operator that ONNX does not have.
            seen = torch.ones_like(input_ids)
        states = self.encoder(input_ids=input_ids, attention_mask=seen).last_hidden_state
        logits: torch.Tensor = self.head(self.dropout(self._pooled(states, attention_mask))).float()
        return logits

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """States ``(batch, length, hidden)`` → ``(batch, hidden)``."""
        if self.pooling == "last":
            if mask is None:
                return states[:, -1]
            return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
        if mask is None:
            return states.mean(1)
        mask = mask.unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)


class EncoderTrainer:
    """Holds the model, its tokenizer and how both are used.

    Args:
        recipe: What to start from and how to cut it.
        texts: Training texts, for the vocabulary.
        labels: Names of the outputs.
        seed: Of the head, the dropout and the order.
        dtype: Of the matrix products (autocast); the weights are float32.
        report: Called with lines for people.

    Raises:
        UsageError: The base cannot be loaded, or not be cut so.
    """

    def __init__(
        self, recipe: Encoder, texts: Sequence[str], *, labels: Sequence[str], seed: int, dtype: str, report: Report
    ) -> None:
        torch.manual_seed(seed)
        self.recipe, self.seed, self.report = recipe, seed, report
        self.dtype = getattr(torch, dtype)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.labels = tuple(labels)
        self.backbone = load_backbone(recipe, texts)
        self.tokenizer = self.backbone.tokenizer
        self.model = EncoderClassifier(self.backbone, len(labels)).to(self.device)
        if recipe.freeze_vocabulary:
            self.backbone.model.get_input_embeddings().weight.requires_grad = False
        for layer in layers_of(self.backbone.model)[: recipe.frozen_layers]:
            layer.requires_grad_(False)
        self._closes = closes(self.tokenizer)
        # What parts question and answer must not stand in a text; an encoder is taught as Mini was.
        added = self.tokenizer.get_added_tokens_decoder().values() if self.backbone.causal else ()
        self._control = tuple(token.content for token in added)

    def fit(self, stage: Stage, examples: Sequence[Example]) -> None:
        """Trains one stage: AdamW, linear warm-up and decay, binary cross-entropy on the targets that are known."""
        self.report(f"stage '{stage.name}': {len(examples)} examples, {stage.epochs} epochs")
        # A stage draws the same dropout and order whether the one before it was trained just now or loaded.
        rng = random.Random(f"{self.seed if stage.seed is None else stage.seed}:{stage.name}")
        torch.manual_seed(rng.getrandbits(63))
        encoded = [self._encode(e.text, min(stage.length, self.recipe.max_length)) for e in examples]
        targets = torch.from_numpy(target_array(examples))
        positive = self._positive_weights(targets)
        per_epoch = -(-len(examples) // stage.batch_size)
        total = per_epoch * stage.epochs
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.model.encoder.parameters() if p.requires_grad], "lr": stage.learning_rate},
                {"params": self.model.head.parameters(), "lr": stage.head_learning_rate},
            ],
            weight_decay=stage.weight_decay,
        )
        warm = max(1, int(total * stage.warmup))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda n: min((n + 1) / warm, max(0.02, (total - n) / max(1, total - warm)))
        )
        self.model.train()
        started, loss_sum, steps = time.monotonic(), 0.0, 0
        for _ in range(stage.epochs):
            for rows in _batches(encoded, stage.batch_size, rng):
                outputs = self._forward([encoded[i] for i in rows], self.dtype)
                known = targets[rows].to(self.device)
                loss = _loss(outputs, known, positive=positive, category_weight=self.recipe.category_weight)
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                loss_sum, steps = loss_sum + loss.item(), steps + 1
                if steps % 50 == 0 or steps == total:
                    rate = steps * stage.batch_size / (time.monotonic() - started)
                    mean = loss_sum / (steps % 50 or 50)
                    self.report(f"  step {steps}/{total}, loss {mean:.3f}, {rate:.1f} examples/s")
                    loss_sum = 0.0

    def logits(self, texts: Sequence[Text], *, batch_size: int = 32) -> NDArray[np.float64]:
        """The model's outputs in float32, shape ``(len(texts), outputs)``; texts longer than ``max_length`` are cut."""
        self.model.eval()
        encoded = [self._encode(t, self.recipe.max_length) for t in texts]
        out = np.zeros((len(texts), len(self.labels)))
        with torch.no_grad():
            for rows in _batches(encoded, batch_size, None):
                out[rows] = self._forward([encoded[i] for i in rows], torch.float32).cpu().numpy()
        return out

    def save(self, folder: Path) -> None:
        """Writes ``encoder.safetensors``, ``encoder.json`` (the encoder's configuration) and ``tokenizer.json``."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous().cpu() for k, v in self.model.state_dict().items()}, folder / "encoder.safetensors")
        encoder: Any = self.model.encoder
        (folder / "encoder.json").write_text(encoder.config.to_json_string(), encoding="utf-8")
        self.tokenizer.save(str(folder / "tokenizer.json"))

    def load(self, folder: Path) -> None:
        """Reads what ``save`` wrote."""
        from safetensors.torch import load_file

        self.model.load_state_dict(load_file(folder / "encoder.safetensors"))

    def _encode(self, text: Text, longest: int) -> list[int]:
        first, *second = (neutralise(part, self._control) for part in ((text,) if isinstance(text, str) else text))
        ids: list[int] = self.tokenizer.encode(first, second[0] if second else None).ids
        if self._closes and len(ids) > longest:
            return [*ids[: longest - 1], ids[-1]]
        return ids[:longest]

    def _positive_weights(self, targets: torch.Tensor) -> torch.Tensor | None:
        """How much a 1 counts in each output, shape ``(outputs,)``; None where all count as a 0 does."""
        wanted = self.recipe.positive_weight
        if wanted is None:
            return None
        if wanted == "balanced":
            weights = balanced_weights(targets)
        else:
            given = wanted if isinstance(wanted, dict) else dict.fromkeys(self.labels, wanted)
            weights = torch.tensor([float(given.get(name, 1)) for name in self.labels])
        told = zip(self.labels, weights.tolist(), strict=True)
        self.report("  weights of positives: " + ", ".join(f"{name} {weight:.3g}" for name, weight in told))
        return weights.to(self.device)

    def _forward(self, encoded: Sequence[list[int]], dtype: torch.dtype) -> torch.Tensor:
        encoder: Any = self.model.encoder
        longest = max(map(len, encoded))
        ids = torch.full((len(encoded), longest), encoder.config.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(encoded):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32):
            logits: torch.Tensor = self.model(ids.to(self.device), mask.to(self.device))
        return logits.float()


def balanced_weights(targets: torch.Tensor) -> torch.Tensor:
    """Negatives over positives of each output, at most 10; 1 where one of them is missing.

    So positives and negatives of an output weigh the same in all (King and Zeng, 2001), unless positives are rarer
    than 1 in 11.

    Args:
        targets: Shape ``(n, outputs)``, 1 or 0; NaN, where unknown, counts as neither.

    Returns:
        Shape ``(outputs,)``.
    """
    positives, negatives = (targets == 1).sum(0), (targets == 0).sum(0)
    ratio = (negatives / positives.clamp(min=1)).clamp(max=_LARGEST_WEIGHT)
    return torch.where((positives > 0) & (negatives > 0), ratio, 1.0)


def _loss(
    logits: torch.Tensor, targets: torch.Tensor, *, positive: torch.Tensor | None, category_weight: float
) -> torch.Tensor:
    """Binary cross-entropy: the unsafe output, and the categories by their weight, unknown targets left out."""
    known = ~targets.isnan()
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits, targets.nan_to_num(), reduction="none", pos_weight=positive
    )
    losses = losses * known
    return losses[:, 0].mean() + category_weight * losses[:, 1:].sum(1).mean()


def _batches(encoded: Sequence[list[int]], size: int, rng: random.Random | None) -> Iterator[list[int]]:
    """Batches of like length; shuffled within large buckets and among themselves where ``rng`` is given."""
    order = list(range(len(encoded)))
    if rng is None:
        order.sort(key=lambda i: len(encoded[i]))
        yield from (order[i : i + size] for i in range(0, len(order), size))
        return
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order), size * _BUCKET):
        bucket = sorted(order[start : start + size * _BUCKET], key=lambda i: len(encoded[i]))
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    rng.shuffle(batches)
    yield from batches

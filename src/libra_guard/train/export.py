"""From trained parts to a guard folder: one ONNX file, int8 where it counts, checked against the parts in torch."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from libra_guard.backends.base import Text
from libra_guard.backends.onnx import OnnxBackend
from libra_guard.guards.classifier import SPECIAL_TOKENS, probabilities
from libra_guard.train.encoder import EncoderTrainer
from libra_guard.train.join import Joint
from libra_guard.train.quantisation import quantise
from libra_guard.train.wide import WideModel

SAMPLES = 128
"""So many texts tell the ranges of the activations."""
_INT8 = "model.int8.onnx"


class GuardModel(nn.Module):
    """The whole guard as one graph; a part that is absent adds nothing and takes no input."""

    def __init__(self, deep: nn.Module | None, wide: WideModel | None, joint: Joint) -> None:
        super().__init__()
        self.deep = deep
        self.wide = wide is not None
        if wide is not None:
            # Half precision halves the file; the weights carry no more than three digits of meaning.
            self.register_buffer("table", torch.from_numpy(wide.table * joint.wide_scale).half())
        bias = joint.bias if wide is None else joint.bias + wide.bias * joint.wide_scale
        self.register_buffer("scale", torch.from_numpy(joint.deep_scale).float())
        self.register_buffer("bias", torch.from_numpy(bias).float())

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Logits ``(1, outputs)`` of one text: ids ``(1, length)``, then n-gram ids and weights ``(1, m)``."""
        rest = list(inputs)
        logits: Any = self.bias
        if self.deep is not None:
            logits = logits + self.scale * self.deep(rest.pop(0))
        if self.wide:
            table: Any = self.table
            rows = nn.functional.embedding(rest[0], table).float()
            logits = logits + (rows * rest[1].unsqueeze(-1)).sum(1)
        return torch.as_tensor(logits)


def export_guard(
    folder: Path,
    *,
    trainer: EncoderTrainer | None,
    wide: WideModel | None,
    joint: Joint,
    config: dict[str, Any],
    samples: Sequence[Text] = (),
) -> None:
    """Writes ``model.onnx``, ``config.json`` and, with an encoder, ``tokenizer.json``.

    The encoder becomes int8; the n-gram table stays half precision, for a few large weights would take the whole of a
    common scale.

    Args:
        folder: Of the guard.
        trainer: Holds the deep part, if there is one.
        wide: The wide part, if there is one.
        joint: How the two are joined.
        config: What ``config.json`` says besides.
        samples: Texts of the kind that will be judged, for the ranges of the encoder's activations; ``SAMPLES`` of them
            are taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(config)
    if trainer is not None:
        trainer.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        config |= {"max_length": trainer.recipe.max_length}
    if wide is not None:
        config |= {"ngrams": wide.features.config()}
    (folder / "config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    model = folder / "model.onnx"
    _write_onnx(model, trainer, wide, joint)
    if trainer is None:
        return
    backend = OnnxBackend(folder)
    texts = samples[:: max(1, len(samples) // SAMPLES)][:SAMPLES]
    feeds = [backend.inputs(text) for text, fits in zip(texts, _whole(backend, texts), strict=True) if fits]
    quantise(model, folder / _INT8, feeds, keep=["table"])
    (folder / _INT8).replace(model)


def _write_onnx(path: Path, trainer: EncoderTrainer | None, wide: WideModel | None, joint: Joint) -> None:
    # A copy: the trainer's own model stays on its device, to be measured there.
    deep = None if trainer is None else copy.deepcopy(trainer.model).to("cpu").float().eval()
    if deep is not None:
        # Texts are run one by one, so nothing is padded: no mask, and attention without what a mask needs, which took a
        # sixth of the time.
        encoder: Any = deep.encoder
        encoder.set_attn_implementation("eager")
    model = GuardModel(deep, wide, joint).eval()
    inputs, names = _example_inputs(deep is not None, wide is not None)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            inputs,
            str(path),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {1: f"{name.partition('_')[0]}_length"} for name in names},
            opset_version=17,
            dynamo=False,
        )


def set_thresholds(folder: Path, thresholds: dict[str, float]) -> None:
    """Writes thresholds into an exported guard's ``config.json``."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | thresholds
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def parity(
    folder: Path, texts: Sequence[Text], wanted: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> dict[str, float]:
    """How far the exported guard is from the parts it was made of.

    Args:
        folder: The exported guard.
        texts: What to compare on.
        wanted: Joined logits of the parts in torch and scikit-learn, shape ``(n, outputs)``.
        thresholds: Of the unsafe score, for each text, shape ``(n,)``.

    Returns:
        How many texts were compared, and how many are left out because the guard reads them in windows and the parts
        do not; median and largest difference of the unsafe score, and the share of equal labels: the last three are
        absent where no text could be compared.
    """
    backend = OnnxBackend(folder)
    whole = _whole(backend, texts)
    counts = {"compared": float(whole.sum()), "longer": float((~whole).sum())}
    if not whole.any():
        return counts
    found = backend.logits([text for text, fits in zip(texts, whole, strict=True) if fits])
    before, after = probabilities(wanted[whole, 0]), probabilities(found[:, 0])
    difference, limits = np.abs(before - after), thresholds[whole]
    return counts | {
        "median_score_difference": round(float(np.median(difference)), 5),
        "largest_score_difference": round(float(difference.max()), 5),
        "label_agreement": round(float(np.mean((before >= limits) == (after >= limits))), 5),
    }


def exported_scores(
    folder: Path, texts: Sequence[Text], otherwise: Callable[[list[Text]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Unsafe probabilities by the exported guard, whose int8 moves them a little; thresholds are chosen on these.

    Args:
        folder: The exported guard.
        texts: What it judges.
        otherwise: The parts' own probabilities of some texts; they stand for those that the guard reads in windows.
    """
    backend = OnnxBackend(folder)
    whole = _whole(backend, texts)
    scores = np.empty(len(texts))
    if whole.any():
        found = backend.logits([text for text, fits in zip(texts, whole, strict=True) if fits])
        scores[whole] = probabilities(found[:, 0])
    if not whole.all():
        scores[~whole] = otherwise([text for text, fits in zip(texts, whole, strict=True) if not fits])
    return scores


def _whole(backend: OnnxBackend, texts: Sequence[Text]) -> NDArray[np.bool_]:
    """Which texts both the parts and the guard read whole."""
    if backend.context is None:
        return np.ones(len(texts), dtype=bool)
    room = backend.context - SPECIAL_TOKENS
    lengths = [sum(map(len, backend.spans([t] if isinstance(t, str) else t))) for t in texts]
    return np.array(lengths) <= room


def _example_inputs(deep: bool, wide: bool) -> tuple[tuple[torch.Tensor, ...], list[str]]:
    inputs: list[torch.Tensor] = []
    names: list[str] = []
    if deep:
        inputs += [torch.arange(5, 13).unsqueeze(0)]
        names += ["input_ids"]
    if wide:
        inputs += [torch.arange(6).unsqueeze(0), torch.ones(1, 6)]
        names += ["ngram_ids", "ngram_weights"]
    return tuple(inputs), names

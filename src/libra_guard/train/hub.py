"""The trained backbone with its head in the form of the model hub: safetensors, configuration, tokenizer."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from libra_guard.train.encoder import EncoderTrainer
from libra_guard.train.join import Joint

HEAD = "head.safetensors"
"""The head of a backbone that transformers has no sequence classifier for: ``weight`` and ``bias``."""
Form = Literal["classifier", "encoder"]


def write_hub(folder: Path, trainer: EncoderTrainer, joint: Joint | None, config: dict[str, Any]) -> Form:
    """Writes the backbone and its head.

    Args:
        folder: Is emptied first.
        trainer: Holds the weights and the tokenizer.
        joint: The calibration that the outputs go through; None where the head is only a part of the guard.
        config: What ``config.json`` says beside the backbone's own settings, as the ONNX guard's does.

    Returns:
        ``classifier``: one file of weights, which ``AutoModelForSequenceClassification`` loads; its head has no bias,
        so what is added to the logits stands in ``config.json`` as ``logit_bias``. ``encoder``: the weights are what
        ``AutoModel`` loads, and the head is a file of its own.
    """
    shutil.rmtree(folder, ignore_errors=True)
    weight, bias = _head(trainer, joint)
    known = copy.deepcopy(trainer.backbone.model.config)
    known.id2label = dict(enumerate(trainer.labels))
    known.label2id = {label: i for i, label in enumerate(trainer.labels)}
    known.problem_type = "multi_label_classification"
    for name, value in config.items():
        setattr(known, name, value)
    # A copy: the trainer's own model stays on its device.
    model = copy.deepcopy(trainer.backbone.model).to("cpu")
    form: Form = "encoder"
    if (classifier := _classifier(known) if trainer.backbone.native else None) is not None:
        form = "classifier"
        known.logit_bias = bias.tolist()
        getattr(classifier, classifier.base_model_prefix).load_state_dict(model.state_dict())
        classifier.score.weight.data.copy_(weight)
        model = classifier
    model.config = known
    model.save_pretrained(folder)
    if form == "encoder":
        save_file({"weight": weight, "bias": bias}, folder / HEAD)
    _save_tokenizer(folder, trainer)
    return form


def _head(trainer: EncoderTrainer, joint: Joint | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The head with the calibration folded in: weight ``(outputs, hidden)`` and bias ``(outputs,)``."""
    head = trainer.model.head
    weight = head.weight.detach().cpu().double()
    bias = torch.zeros(len(weight)) if head.bias is None else head.bias.detach().cpu()
    bias = bias.double()
    if joint is not None:
        scale = torch.from_numpy(np.asarray(joint.deep_scale))
        weight, bias = weight * scale[:, None], bias * scale + torch.from_numpy(joint.bias)
    return weight.float().contiguous(), bias.float()


def _classifier(config: Any) -> Any:
    """The architecture's own sequence classifier, untrained; None where it has none, or one with another head."""
    try:
        model = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        return None
    head = getattr(model, "score", None)
    return model if isinstance(head, torch.nn.Linear) and head.bias is None else None


def _save_tokenizer(folder: Path, trainer: EncoderTrainer) -> None:
    pad = trainer.tokenizer.id_to_token(trainer.backbone.model.config.pad_token_id or 0)
    PreTrainedTokenizerFast(
        tokenizer_object=trainer.tokenizer,
        pad_token=pad,
        padding_side="right",
        model_max_length=trainer.recipe.max_length,
        # The head was taught without token types.
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)

"""Loads a base model for training, with its adapter where it has one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from libra_guard.backends._pretrained import CAUSAL, context
from libra_guard.errors import UsageError
from libra_guard.train.base_folder import check_base, unusable
from libra_guard.train.generative_recipe import Model

_ADAPTABLE = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
"""Layers that LoRA is put on."""


def load_base_tokenizer(base: str, how: Model) -> Any:
    """The base's tokenizer.

    Raises:
        UsageError: There is none that can be read.
    """
    check_base(base)
    # Its bars for loading and saving would stand between the run's own lines.
    logging.disable_progress_bar()
    try:
        return AutoTokenizer.from_pretrained(base, trust_remote_code=how.trust_remote_code)
    except (OSError, ValueError) as error:
        raise unusable(base, "no tokenizer that can be read", error) from error


def check_model(base: str, how: Model, tokenizer: Any, lengths: Mapping[str, int]) -> None:
    """Refuses what is no causal language model, and stages whose sequences it cannot read.

    Args:
        base: Folder or hub name.
        how: Whether it may bring code of its own.
        tokenizer: Its own, which may have a limit too.
        lengths: Of the stages' sequences, in tokens, by name.

    Raises:
        UsageError: A sequence is longer than the model's context, or the model is of another kind, or has no
            configuration that can be read.
    """
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=how.trust_remote_code)
    except (OSError, ValueError) as error:
        raise unusable(base, "no configuration that can be read", error) from error
    if not any(name.endswith(CAUSAL) for name in config.architectures or ()):
        named = ", ".join(config.architectures or ("no architecture",))
        raise UsageError(f"{base}: not a causal language model: its configuration names {named}")
    room = context(config.get_text_config(decoder=True), tokenizer)
    for name, length in lengths.items():
        if room is not None and length > room:
            raise UsageError(f"stage '{name}': length: {length}; '{base}' reads at most {room} tokens")


def load_base(base: str, how: Model) -> tuple[Any, LoraConfig | None]:
    """The base model, and the adapter's configuration where one is to be trained.

    Raises:
        UsageError: It cannot be loaded, or has no layers of the names that are to get an adapter.
    """
    model, lora = _load(base, how), how.lora
    if lora is None:
        return model, None
    _check_targets(model, base, lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )
    return model, config


def load_trained(folder: Path, how: Model, base: str) -> tuple[Any, None]:
    """What an earlier stage saved, ready to be trained on.

    Raises:
        UsageError: It cannot be loaded.
    """
    if how.lora is None:
        return _load(str(folder), how), None
    try:
        with quiet_peft():
            return PeftModel.from_pretrained(_load(base, how), folder, is_trainable=True), None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"{folder}: not an adapter of {base}: {error}") from error


def _check_targets(model: Any, base: str, targets: str | list[str]) -> None:
    """PEFT passes over a name that no layer has, as long as another one fits."""
    layers = [name for name, module in model.named_modules() if isinstance(module, _ADAPTABLE)]
    if targets == "all-linear":
        return
    if not targets:
        raise UsageError("lora.targets: no layer is named; all-linear stands for all")
    for target in [targets] if isinstance(targets, str) else targets:
        # A text by itself is a pattern, in a list it is a name or the end of one.
        pattern = target if isinstance(targets, str) else rf"(.*\.)?{re.escape(target)}"
        if not any(re.fullmatch(pattern, name) for name in layers):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise UsageError(f"lora.targets: no layer of '{base}' is called '{target}'; there are: {known}")


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without a warning that is peft's own affair with transformers, not the user's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        yield


def narrow(folder: Path, how: Model) -> None:
    """Weights that were trained in float32 are kept in the precision that they are used in."""
    if how.dtype != "float32":
        _load(str(folder), how).to(getattr(torch, how.dtype)).save_pretrained(folder)


def _load(folder: str, how: Model) -> Any:
    # Weights that are trained themselves are float32: steps of bfloat16 would round small updates away.
    dtype = torch.float32 if how.lora is None else getattr(torch, how.dtype)
    auto: Any = AutoModelForCausalLM
    try:
        model, info = auto.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=how.trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unusable(folder, "not a causal language model that can be loaded", error) from error
    if info["missing_keys"]:
        # Of an encoder or a classifier the head would be random numbers.
        lacking = ", ".join(sorted(info["missing_keys"])[:3])
        raise UsageError(f"{folder}: not a causal language model: its weights lack {lacking}")
    return model

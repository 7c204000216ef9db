"""Finds and loads a pretrained model for the transformers backend, and says plainly what is missing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import SafetensorError

from libra_guard.backends._running import failures, first_line
from libra_guard.errors import UsageError, require
from libra_guard.io import ADAPTER, model_hash

DTYPES = ("auto", "float32", "bfloat16", "float16")
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of language models' classes end."""


class Loaded(NamedTuple):
    """A model ready to run."""

    model: Any
    tokenizer: Any
    classifier: bool
    about: dict[str, Any]
    """For the provenance: what was loaded, how and where it runs."""


def load(
    model: str, *, adapter: str | None, revision: str | None, trust_remote_code: bool, dtype: str, device: str
) -> Loaded:
    """Loads model and tokenizer, with the adapter merged into the weights.

    Args:
        model: A model folder, a LoRA adapter's folder, or a hub name.
        adapter: A LoRA adapter's folder or hub name.
        revision: Of the model on the hub.
        trust_remote_code: Whether the model may bring code of its own.
        dtype: One of ``DTYPES``.
        device: ``auto`` or a name that torch knows.

    Raises:
        UsageError: Something is not there, or not of the form that it should have.
        BackendError: The device has no memory for the model.
    """
    if dtype not in DTYPES:
        raise UsageError(f"there is no dtype '{dtype}'; there are: {', '.join(DTYPES)}")
    place = find_device(device)
    named = model
    if adapter is None and (Path(model).expanduser() / ADAPTER).is_file():
        model, adapter = _base_of(model), model
    if adapter is not None:
        _check_adapter(adapter)
    folder = check_folder(model)
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code, **({"revision": revision} if revision else {})}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **common)
        own = adapter is not None and (Path(adapter).expanduser() / "tokenizer_config.json").is_file()
        tokenizer = transformers.AutoTokenizer.from_pretrained(adapter if own else folder, **({} if own else common))
    except (OSError, ValueError) as error:
        raise _unread(f"cannot read a model from '{model}'", error) from error
    classifier = _is_classifier(config, model)
    loaded = _weights(folder, config, classifier, common, _dtype(dtype, config, place), model)
    if adapter is not None:
        loaded = _merged(loaded, adapter, classifier)
    with failures(model, place):
        loaded = loaded.eval().to(place)
    parts = {"model": named, "base": model if model != named else None, "adapter": adapter}
    return Loaded(loaded, tokenizer, classifier, _about(loaded, parts, revision))


def find_device(name: str) -> torch.device:
    """The device to run on; ``auto`` is a GPU where there is one.

    Raises:
        UsageError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"there is no device '{name}'; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"the device '{name}' is not there: torch sees {torch.cuda.device_count()} GPUs")
    return device


def context(config: Any, tokenizer: Any) -> int | None:
    """Tokens that the model takes; a tokenizer's limit of astronomic size means that it has none."""
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    return min((int(n) for n in limits if n and 0 < n < 10**9), default=None)


def _about(model: Any, parts: dict[str, str | None], revision: str | None) -> dict[str, Any]:
    folders = {name: Path(part).expanduser() for name, part in parts.items() if part}
    return {
        **{name: part for name, part in parts.items() if part or name != "base"},
        # A name says little: of a folder the hash tells what is in it, of a hub model the commit.
        "revision": getattr(model.config, "_commit_hash", None) or revision,
        **{f"{name}_hash": model_hash(folder) for name, folder in folders.items() if folder.is_dir()},
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _dtype(name: str, config: Any, device: torch.device) -> torch.dtype:
    if name != "auto":
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    # On a CPU half precision is slow and loses digits for nothing.
    stored = getattr(config, "dtype", None)
    return stored if device.type != "cpu" and isinstance(stored, torch.dtype) else torch.float32


def check_folder(model: str) -> str:
    """The model's folder, or its hub name.

    Raises:
        UsageError: It is neither.
    """
    path = Path(model).expanduser()
    if model and path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(
                f"'{model}' is no model folder: it has neither config.json (a model) nor {ADAPTER} (a LoRA adapter)"
            )
        if not any(path.glob("*.safetensors")):
            if any(path.glob("*.onnx")):
                raise UsageError(f"'{model}' holds a model for ONNX alone, no *.safetensors weights: use backend onnx")
            raise UsageError(f"'{model}' has no *.safetensors weights; pickled weights are not loaded: convert them")
        return str(path)
    # A hub name is NAME or OWNER/NAME.
    if path.exists() or path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or not model:
        raise UsageError(f"there is no model folder '{model}'")
    return model


def _base_of(adapter: str) -> str:
    path = Path(adapter).expanduser() / ADAPTER
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"'{path}' names no base model ({type(error).__name__}: {error})") from None
    if not isinstance(base, str) or not base:
        raise UsageError(f"'{path}' names no base model; give the model, and this folder as adapter")
    return base


def _check_adapter(adapter: str) -> None:
    require("peft", "hf")
    path = Path(adapter).expanduser()
    if not path.is_dir():
        check_folder(adapter)
    else:
        for name in (ADAPTER, "adapter_model.safetensors"):
            if not (path / name).is_file():
                raise UsageError(f"'{adapter}' is no LoRA adapter folder: it has no {name}")


def _unread(what: str, error: Exception) -> UsageError:
    """What transformers could not do; code that a model brings is only run where that was asked for."""
    if "trust_remote_code" in str(error):
        remedy = "--set trust_remote_code=true runs that code; look at it first"
        return UsageError(f"{what}, which brings code of its own: {remedy}")
    return UsageError(f"{what}: {first_line(error)}")


def _is_classifier(config: Any, model: str) -> bool:
    for architecture in config.architectures or ():
        if architecture.endswith("ForSequenceClassification"):
            return True
        if architecture.endswith(CAUSAL):
            return False
    raise UsageError(
        f"'{model}' is neither a causal language model nor a sequence classifier: "
        f"its config names {config.architectures or 'no architecture'}"
    )


def _weights(folder: str, config: Any, classifier: bool, common: dict[str, Any], dtype: torch.dtype, model: str) -> Any:
    auto: Any = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    try:
        loaded, info = auto.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **common
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unread(f"cannot load the weights of '{model}' from safetensors", error) from error
    if info["missing_keys"]:
        # Transformers would fill them with random numbers and go on.
        raise UsageError(f"the weights of '{model}' lack {', '.join(sorted(info['missing_keys'])[:3])}")
    return loaded


def _merged(model: Any, adapter: str, classifier: bool) -> Any:
    import peft

    try:
        config = peft.PeftConfig.from_pretrained(adapter)
        if config.task_type == "SEQ_CLS" and not classifier:
            raise UsageError(f"the adapter '{adapter}' is a classifier's, its base model is none: merge it first")
        with warnings.catch_warnings():
            # peft's own affair with transformers, not the user's.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            # Merged, the model runs as fast as its base and takes every argument of it.
            return peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"cannot put the adapter '{adapter}' on its base: {first_line(error)}") from error

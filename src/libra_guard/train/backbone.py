"""Loads the pretrained model under a classifier's head, with its tokenizer, and cuts both as the recipe says."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from libra_guard.errors import UsageError
from libra_guard.train.base_folder import check_base, unusable
from libra_guard.train.recipe import Encoder
from libra_guard.train.vocabulary import trim_tokenizer

_MOST_WEIGHTS = 530_000_000
"""In float32 a little less than the 2 GiB that one ONNX file can hold."""


@dataclass(frozen=True)
class Backbone:
    """A model that gives a state for each token, and its tokenizer."""

    model: Any
    tokenizer: Tokenizer
    causal: bool
    """Whether it is a language model, in which a token sees only those before it."""
    pooling: str
    """``mean`` or ``last``."""

    @property
    def native(self) -> bool:
        """Whether transformers' own sequence classifiers read it so."""
        return self.causal and self.pooling == "last"


def load_backbone(recipe: Encoder, texts: Sequence[str]) -> Backbone:
    """The model and its tokenizer, both cut as the recipe says.

    Args:
        recipe: What to start from and how to cut it.
        texts: Training texts, for the vocabulary.

    Raises:
        UsageError: It cannot be loaded, cut so, or exported afterwards.
    """
    check_base(recipe.base)
    try:
        causal = _is_causal(AutoConfig.from_pretrained(recipe.base).model_type)
        model, info = AutoModel.from_pretrained(
            recipe.base, use_safetensors=True, output_loading_info=True, **_no_pooler(recipe.base)
        )
    except (OSError, ValueError) as error:
        raise unusable(recipe.base, "not a pretrained encoder that can be loaded", error) from error
    if info["missing_keys"]:
        # Transformers would fill them with random numbers and go on.
        raise UsageError(f"{recipe.base}: its weights lack {', '.join(sorted(info['missing_keys'])[:3])}")
    model = model.float()
    tokenizer = _causal_tokenizer(recipe.base, model) if causal else _tokenizer_file(recipe.base)
    if recipe.vocabulary:
        tokenizer, kept = trim_tokenizer(tokenizer, texts, minimum=recipe.vocabulary)
        _trim_embeddings(model, kept)
    if recipe.layers is not None:
        _keep_layers(model, recipe.layers)
    if recipe.frozen_layers > len(layers_of(model)):
        found = len(layers_of(model))
        raise UsageError(f"frozen_layers: {recipe.frozen_layers}; the encoder has {found} that can be told apart")
    if recipe.max_length > (room := _positions(model)):
        raise UsageError(f"max_length: {recipe.max_length}; the encoder reads at most {room} tokens")
    if (size := sum(p.numel() for p in model.parameters())) > _MOST_WEIGHTS:
        raise UsageError(
            f"{recipe.base}: {size:,} weights, and the guard's ONNX file can hold {_MOST_WEIGHTS:,}: "
            "take a smaller base, or fewer of its layers"
        )
    return Backbone(model, tokenizer, causal, recipe.pooling or ("last" if causal else "mean"))


def layers_of(model: Any) -> nn.ModuleList:
    """The model's layers, where they stand as in BERT or in Llama and their relatives; empty for others."""
    home, name = _layers_home(model)
    found = getattr(home, name, None)
    return found if isinstance(found, nn.ModuleList) else nn.ModuleList()


def closes(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer puts a token of its own after each text."""
    return bool(tokenizer.encode("a").special_tokens_mask[-1])


def _is_causal(kind: str) -> bool:
    # BERT and its relatives have a causal form too, which nobody starts from.
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _no_pooler(base: str) -> dict[str, Any]:
    # Mean pooling needs no pooler, and BERT's would be created at random where the checkpoint has none.
    kind = AutoConfig.from_pretrained(base).model_type
    return {"add_pooling_layer": False} if kind in {"bert", "xlm-roberta"} else {}


def _tokenizer_file(base: str) -> Tokenizer:
    folder = Path(base)
    try:
        tokenizer: Tokenizer = (
            Tokenizer.from_file(str(folder / "tokenizer.json")) if folder.is_dir() else Tokenizer.from_pretrained(base)
        )
    except Exception as error:  # the library raises plain exceptions
        raise unusable(base, "no tokenizer.json that can be read", error) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _causal_tokenizer(base: str, model: Any) -> Tokenizer:
    """A language model's tokenizer; the model's configuration learns the padding token.

    Sequence classifiers of transformers find a text's last token by the padding token, so no text may end in it.
    """
    try:
        found = AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise unusable(base, "no tokenizer that can be read", error) from error
    if not found.is_fast:
        raise UsageError(f"{base}: its tokenizer is not a fast one, and the guard is used with nothing else")
    tokenizer = Tokenizer.from_str(found.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    pad = found.eos_token_id if found.pad_token_id is None else found.pad_token_id
    if pad is None or found.eos_token is None:
        raise UsageError(f"{base}: its tokenizer names no end-of-text token (eos_token): add one to its configuration")
    if closes(tokenizer) and tokenizer.encode("a").ids[-1] == pad:
        raise UsageError(
            f"{base}: its tokenizer ends every text with the padding token: give it a pad_token of its own"
        )
    # Of no use to a classifier.
    model.config.use_cache = False
    model.config.pad_token_id = pad
    _part_pairs(tokenizer, found.eos_token)
    return tokenizer


def _part_pairs(tokenizer: Tokenizer, end: str) -> None:
    """Puts the end-of-text token between question and answer where the tokenizer itself puts nothing.

    Many language models' tokenizers just join the two; a mark that is no control token could be forged in a question.
    """
    plain = len(tokenizer.encode("a", add_special_tokens=False).ids)
    if len(tokenizer.encode("a", "a").ids) > len(tokenizer.encode("a").ids) + plain:
        return
    parted = processors.TemplateProcessing(
        single="$A", pair=f"$A {end} $B", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    own = tokenizer.post_processor
    tokenizer.post_processor = parted if own is None else processors.Sequence([own, parted])


def _trim_embeddings(encoder: Any, kept: Sequence[int]) -> None:
    old = encoder.get_input_embeddings()
    new = {o: n for n, o in enumerate(kept)}
    pad = new[encoder.config.pad_token_id or 0]
    smaller = nn.Embedding(len(kept), old.weight.shape[1], padding_idx=pad)
    smaller.weight.data.copy_(old.weight.data[list(kept)])
    encoder.set_input_embeddings(smaller)
    encoder.config.vocab_size = len(kept)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = getattr(encoder.config, name, None)
        if value is not None:
            setattr(encoder.config, name, new[value])


def _keep_layers(model: Any, layers: Sequence[int]) -> None:
    found = layers_of(model)
    if max(layers) >= len(found):
        raise UsageError(f"layers: {list(layers)}; the encoder has {len(found)} that can be told apart, from 0")
    setattr(*_layers_home(model), nn.ModuleList(copy.deepcopy(found[i]) for i in layers))
    if kinds := getattr(model.config, "layer_types", None):
        model.config.layer_types = [kinds[i] for i in layers]
    model.config.num_hidden_layers = len(layers)


def _layers_home(model: Any) -> tuple[Any, str]:
    """The module that holds the layers, and their name in it."""
    return (model, "layers") if hasattr(model, "layers") else (getattr(model, "encoder", None), "layer")


def _positions(encoder: Any) -> int:
    """The longest text the encoder can read, in tokens; RoBERTa's and its relatives' positions begin after the pad."""
    longest = int(getattr(encoder.config, "max_position_embeddings", None) or sys.maxsize)
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    pad: int | None = getattr(table, "padding_idx", None)
    return longest if pad is None else longest - pad - 1

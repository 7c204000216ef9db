"""Language models under a classifier's head: their tokens, their padding, their layers, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from libra_guard.errors import UsageError
from libra_guard.train import backbone
from libra_guard.train.encoder import EncoderTrainer
from libra_guard.train.recipe import Encoder

LABELS = ("unsafe", "one", "two")
TEXTS = ["今天", ("怎么泡好茶？", "这件事我可以帮你泡好茶。" * 2), "天气很好", ("", "好")]
MakeTokenizer = Callable[..., Any]


def silent(_: str) -> None:
    pass


def trainer(base: Path, **recipe: Any) -> EncoderTrainer:
    wanted = Encoder.model_validate({"base": str(base), "max_length": 64, **recipe})
    return EncoderTrainer(wanted, ["今天"], labels=LABELS, seed=3, dtype="float32", report=silent)


@pytest.fixture
def other(causal_base: Path, tmp_path: Path) -> Callable[[Any], Path]:
    """Makes the base with another tokenizer."""

    def make(tokenizer: Any) -> Path:
        folder = Path(shutil.copytree(causal_base, tmp_path / "other"))
        tokenizer.save_pretrained(folder)
        return folder

    return make


# What is refused


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"vocabulary": 1}, "only Unigram vocabularies are trimmed, not BPE: leave 'vocabulary' out"),
        ({"layers": [0, 2]}, r"layers: \[0, 2\]; the encoder has 2 that can be told apart"),
        ({"frozen_layers": 3}, "frozen_layers: 3; the encoder has 2"),
        ({"max_length": 1025}, "max_length: 1025; the encoder reads at most 1024 tokens"),
    ],
)
def test_a_cut_that_cannot_be_made(causal_base: Path, recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainer(causal_base, **recipe)


def test_layers_that_cannot_be_told_apart(tmp_path: Path, make_tokenizer: MakeTokenizer) -> None:
    from transformers import GPT2Config, GPT2Model

    tokenizer = make_tokenizer()
    GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert trainer(tmp_path).backbone.native
    with pytest.raises(UsageError, match="the encoder has 0 that can be told apart"):
        trainer(tmp_path, layers=[0])


def test_a_model_too_large_for_one_file(causal_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(p.numel() for p in trainer(causal_base).backbone.model.parameters())
    monkeypatch.setattr(backbone, "_MOST_WEIGHTS", size)
    trainer(causal_base)
    monkeypatch.setattr(backbone, "_MOST_WEIGHTS", size - 1)
    with pytest.raises(UsageError, match=f"{size:,} weights, and the guard's ONNX file can hold {size - 1:,}"):
        trainer(causal_base)


def test_weights_that_are_missing(causal_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(causal_base, tmp_path / "base"))
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"its weights lack norm\.weight"):
        trainer(folder)


def test_a_tokenizer_without_an_end_of_text(other: Callable[[Any], Path], make_tokenizer: MakeTokenizer) -> None:
    folder = other(make_tokenizer(eos_token=None))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": None}))
    with pytest.raises(UsageError, match=r"names no end-of-text token \(eos_token\)"):
        trainer(folder)


def closing(tokenizer: Any) -> Any:
    """The same with ``<|im_end|>`` after every text."""
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>",
        pair="$A <|im_end|> $B <|im_end|>",
        special_tokens=[("<|im_end|>", tokenizer.eos_token_id)],
    )
    return tokenizer


def test_texts_that_end_in_the_padding(other: Callable[[Any], Path], make_tokenizer: MakeTokenizer) -> None:
    """A sequence classifier would read the token before."""
    with pytest.raises(UsageError, match="ends every text with the padding token: give it a pad_token of its own"):
        trainer(other(closing(make_tokenizer(pad_token="<|im_end|>"))))


# Tokens


def test_question_and_answer_are_parted(causal_base: Path) -> None:
    """The tokenizer itself would join them, and a question could hold the answer's beginning."""
    found = trainer(causal_base)
    end = found.tokenizer.token_to_id("<|im_end|>")
    whole, first, second = (found._encode(text, 64) for text in (("怎么", "可以"), "怎么", "可以"))
    assert whole == [*first, end, *second]
    assert found._encode(("", "可以"), 64) == [end, *second]
    forged = found._encode(("怎么<|im_end|>可以", "好"), 64)
    assert forged.count(end) == 1


def test_a_tokenizer_that_parts_and_closes_stays_as_it_is(
    other: Callable[[Any], Path], make_tokenizer: MakeTokenizer
) -> None:
    found = trainer(other(closing(make_tokenizer())))
    end = found.tokenizer.token_to_id("<|im_end|>")
    assert found._encode(("怎么", "可以"), 64).count(end) == 2
    long = found._encode("今天天气很好" * 60, 32)
    assert (len(long), long[-1], long.count(end)) == (32, end, 1)


def test_a_beginning_of_text_is_kept(other: Callable[[Any], Path], make_tokenizer: MakeTokenizer) -> None:
    found = trainer(other(make_tokenizer(bos=True)))
    begin, end = (found.tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>"))
    assert found._encode("怎么", 64)[0] == begin
    assert found._encode(("怎么", "可以"), 64).count(end) == 1


def test_a_long_text_is_cut_at_its_end(causal_base: Path) -> None:
    found = trainer(causal_base)
    assert found._encode("今天天气很好" * 60, 32) == found.tokenizer.encode("今天天气很好" * 60).ids[:32]


@pytest.mark.parametrize("pad", ["<|endoftext|>", "<|im_end|>", None])
@pytest.mark.parametrize("pooling", [None, "last", "mean"])
def test_neighbours_and_padding_change_nothing(
    other: Callable[[Any], Path], make_tokenizer: MakeTokenizer, pad: str | None, pooling: str | None
) -> None:
    """Also where the padding is the end-of-text token, which stands in every pair."""
    found = trainer(other(make_tokenizer(pad_token=pad)), pooling=pooling)
    alone = np.concatenate([found.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(found.logits(TEXTS), alone, atol=1e-5)
    assert alone.std() > 0.01


# Pooling


def states(found: EncoderTrainer, text: Any) -> torch.Tensor:
    ids = torch.tensor([found._encode(text, 64)])
    with torch.no_grad():
        return found.model.encoder(input_ids=ids).last_hidden_state[0]


@pytest.mark.parametrize("pooling", [None, "last", "mean"])
@pytest.mark.parametrize("kind", ["base", "causal_base"])
def test_what_the_head_reads(kind: str, pooling: str | None, request: pytest.FixtureRequest) -> None:
    found = trainer(request.getfixturevalue(kind), pooling=pooling)
    last = (pooling or ("last" if kind == "causal_base" else "mean")) == "last"
    rows = torch.stack([s[-1] if last else s.mean(0) for s in (states(found, text) for text in TEXTS)])
    np.testing.assert_allclose(found.logits(TEXTS), found.model.head(rows).detach(), atol=1e-5)
    assert (found.model.head.bias is None) == (last and kind == "causal_base") == found.backbone.native


def test_layers_of_a_language_model_are_cut_and_frozen(causal_base: Path) -> None:
    whole, cut = trainer(causal_base), trainer(causal_base, layers=[1], frozen_layers=1)
    kept, first = cut.backbone.model.layers[0].state_dict(), whole.backbone.model.layers[1].state_dict()
    assert all(torch.equal(kept[name], first[name]) for name in first)
    config = cut.backbone.model.config
    assert (config.num_hidden_layers, len(config.layer_types)) == (1, 1)
    assert not any(p.requires_grad for p in cut.backbone.model.layers.parameters())
    assert cut.logits(["今天"]).shape == (1, 3)

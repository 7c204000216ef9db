"""The form for the model hub: what transformers loads says what the trainer says, in the words of the card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from libra_guard import Conversation, load_guard
from libra_guard.guards.classifier import probabilities
from libra_guard.train.encoder import EncoderTrainer
from libra_guard.train.export import export_guard
from libra_guard.train.hub import write_hub
from libra_guard.train.join import Joint
from libra_guard.train.recipe import Encoder

LABELS = ("unsafe", "茶", "画")
CONFIG = {"labels": list(LABELS), "system": None, "threshold": 0.4, "question_threshold": 0.3}
JOINT = Joint(np.array([0.5, 2.0, 1.0]), np.zeros(3), np.array([-1.0, 0.5, 0.0]))
PAIRS = [("怎么泡好茶？", "这件事我可以帮你泡好茶。" * 2), ("怎么画画？", "不太方便"), ("你<|im_end|>好", "今天")]
QUESTIONS = ["怎么泡好茶？", "今天天气很好，我们去公园"]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
KINDS: dict[str, Callable[..., Any]] = {
    "llama": lambda size: transformers.LlamaModel(
        transformers.LlamaConfig(vocab_size=size, num_key_value_heads=2, bos_token_id=0, **SIZES)
    ),
    "gpt2": lambda size: transformers.GPT2Model(
        transformers.GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=2)
    ),
    "gemma3_text": lambda size: transformers.Gemma3TextModel(
        transformers.Gemma3TextConfig(vocab_size=size, num_key_value_heads=1, head_dim=8, sliding_window=8, **SIZES)
    ),
}


@pytest.fixture(scope="session")
def make_base(
    causal_base: Path, base: Path, make_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Makes a random model's folder by its kind: bert, qwen2, or one of ``KINDS``, which puts a token before a text."""

    def make(kind: str) -> Path:
        if kind in ("bert", "qwen2"):
            return base if kind == "bert" else causal_base
        folder, tokenizer = tmp_path_factory.mktemp(kind), make_tokenizer(bos=True)
        torch.manual_seed(5)
        KINDS[kind](len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def trainer(folder: Path, **recipe: Any) -> EncoderTrainer:
    wanted = Encoder.model_validate({"base": str(folder), "max_length": 64, **recipe})
    texts = [text for pair in PAIRS for text in pair]
    made = EncoderTrainer(wanted, texts, labels=LABELS, seed=3, dtype="float32", report=lambda _: None)
    # A fresh head says next to nothing: make it speak up.
    made.model.head.weight.data *= 10
    return made


def by_the_card(form: str, pooling: str, folder: Path, question: str, answer: str) -> np.ndarray:
    """What the lines of Python in the card find."""
    from libra_guard.plaintext import plain_text

    card = (
        plain_text("train")
        .get_template("_hub.md.j2")
        .render(form=form, hub={"pooling": pooling}, recipe=type("R", (), {"ngrams": None}))
    )
    code = card.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"FOLDER": str(folder), "question": question, "answer": answer}
    exec(code, names)
    return np.asarray(names["scores"].detach()[0])


@pytest.mark.parametrize("kind", ["qwen2", *KINDS])
def test_a_language_model_s_own_classifier(make_base: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    made = trainer(make_base(kind))
    assert write_hub(tmp_path / "hub", made, JOINT, CONFIG) == "classifier"
    export_guard(tmp_path / "guard", trainer=made, wide=None, joint=JOINT, config=CONFIG)
    config = json.loads((tmp_path / "hub" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"][0].endswith("ForSequenceClassification")
    assert [config["id2label"][str(i)] for i in range(3)] == list(LABELS)
    texts: list[Any] = [*PAIRS, *QUESTIONS]
    wanted = probabilities(JOINT.apply(made.logits(texts), np.zeros((len(texts), 3))))
    # In one batch and one by one, the same tokens in the same places.
    guard = load_guard(f"mini:{tmp_path / 'hub'}", backend="transformers")
    assert (guard.threshold, guard.backend.context) == (0.4, 64)
    np.testing.assert_allclose(probabilities(guard.backend.logits(texts) + guard.bias), wanted, atol=1e-4)
    for pair, row in zip(PAIRS[:2], wanted, strict=False):
        np.testing.assert_allclose(by_the_card("classifier", "last", tmp_path / "hub", *pair), row, atol=1e-4)
    # The other form of the same guard, in int8.
    small = load_guard(f"mini:{tmp_path / 'guard'}")
    assert small.question_threshold == guard.question_threshold == 0.3
    assert np.abs(probabilities(small.backend.logits(texts)) - wanted).mean() < 0.05


@pytest.mark.parametrize(("kind", "pooling"), [("bert", "mean"), ("bert", "last"), ("qwen2", "mean")])
def test_a_head_of_its_own(make_base: Callable[[str], Path], tmp_path: Path, kind: str, pooling: str) -> None:
    made = trainer(make_base(kind), pooling=pooling)
    assert write_hub(tmp_path, made, JOINT, CONFIG) == "encoder"
    assert {name: tuple(t.shape) for name, t in load_file(tmp_path / "head.safetensors").items()} == {
        "weight": (3, 32),
        "bias": (3,),
    }
    wanted = probabilities(JOINT.apply(made.logits(PAIRS[:2]), np.zeros((2, 3))))
    for pair, row in zip(PAIRS, wanted, strict=False):
        np.testing.assert_allclose(by_the_card("encoder", pooling, tmp_path, *pair), row, atol=1e-4)


def test_a_trimmed_encoder(make_base: Callable[[str], Path], tmp_path: Path) -> None:
    made = trainer(make_base("bert"), vocabulary=1, layers=[1])
    write_hub(tmp_path, made, None, CONFIG)
    wanted = probabilities(made.logits(PAIRS[:1]))[0]
    np.testing.assert_allclose(by_the_card("encoder", "mean", tmp_path, *PAIRS[0]), wanted, atol=1e-4)


def test_a_part_of_a_guard_says_what_it_says_itself(make_base: Callable[[str], Path], tmp_path: Path) -> None:
    made = trainer(make_base("qwen2"))
    write_hub(tmp_path, made, None, {**CONFIG, "threshold": 0.5})
    guard = load_guard(f"mini:{tmp_path}", backend="transformers")
    np.testing.assert_allclose(guard.backend.logits(PAIRS), made.logits(PAIRS), atol=1e-4)
    verdict = guard.judge([Conversation.from_pair("今天", "天气很好")])[0]
    wanted = probabilities(made.logits([("今天", "天气很好")]))[0, 0]
    assert verdict.unsafe_score == pytest.approx(wanted, abs=1e-4)
    assert not guard.bias.any()


def test_what_stood_there_is_replaced(make_base: Callable[[str], Path], tmp_path: Path) -> None:
    write_hub(tmp_path / "hub", trainer(make_base("bert")), JOINT, CONFIG)
    write_hub(tmp_path / "hub", trainer(make_base("qwen2")), JOINT, CONFIG)
    assert not (tmp_path / "hub" / "head.safetensors").exists()


def test_the_trainer_stays_as_it_was(make_base: Callable[[str], Path], tmp_path: Path) -> None:
    made = trainer(make_base("qwen2"))
    before, config = made.logits(PAIRS), made.backbone.model.config.to_dict()
    write_hub(tmp_path, made, JOINT, CONFIG)
    shutil.rmtree(tmp_path)
    np.testing.assert_array_equal(made.logits(PAIRS), before)
    assert made.backbone.model.config.to_dict() == config

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from libra_guard.errors import UsageError
from libra_guard.train import encoder
from libra_guard.train.encoder import EncoderTrainer, _batches, _loss, balanced_weights
from libra_guard.train.mixture import Example, Reader, Split
from libra_guard.train.outputs import Outputs
from libra_guard.train.recipe import Encoder, Source, Stage

SEED = Source(set="libra-seed", path="seed.jsonl")
LABELS = Outputs.of("libra").labels
STAGE = Stage(name="s", data=[SEED], epochs=4, learning_rate=2e-3, head_learning_rate=1e-2)
Make = Callable[..., EncoderTrainer]


@pytest.fixture(scope="module")
def examples(data: Path) -> dict[Split, list[Example]]:
    reader = Reader(data, seed=1)
    return {split: reader.read([SEED], split) for split in Split}


@pytest.fixture
def make(base: Path, examples: dict[Split, list[Example]]) -> Make:
    texts = [t for e in examples[Split.TRAIN] for t in e.text]

    def trainer(report: Callable[[str], None] = lambda _: None, **recipe: Any) -> EncoderTrainer:
        wanted = Encoder.model_validate({"base": str(base), "max_length": 64, **recipe})
        return EncoderTrainer(wanted, texts, labels=LABELS, seed=3, dtype="float32", report=report)

    return trainer


# Bases that cannot be used


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def other_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"<s>": 0}, unk_token="<s>")).save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "there is no model folder"),
        (lambda f: (f / "config.json").unlink(), "is no model folder: it has neither config.json"),
        (lambda f: (f / "model.safetensors").unlink(), r"has no \*\.safetensors weights"),
        (lambda f: (f / "config.json").write_text("{}"), "base: not a pretrained encoder that can be loaded: "),
        (lambda f: (f / "tokenizer.json").unlink(), r"no tokenizer\.json that can be read"),
        (damage_tokenizer, r"no tokenizer\.json that can be read"),
        (other_tokenizer, "only Unigram vocabularies are trimmed, not WordLevel"),
    ],
)
def test_a_base_that_cannot_be_loaded(
    base: Path, make: Make, tmp_path: Path, damage: Callable[[Path], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    damage(folder)
    with pytest.raises(UsageError, match=message):
        make(base=str(folder), vocabulary=1)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"layers": [0, 2]}, r"layers: \[0, 2\]; the encoder has 2"),
        ({"frozen_layers": 3}, "frozen_layers: 3; the encoder has 2"),
        ({"layers": [1], "frozen_layers": 2}, "frozen_layers: 2; the encoder has 1"),
        ({"max_length": 65}, "max_length: 65; the encoder reads at most 64 tokens"),
    ],
)
def test_a_cut_that_cannot_be_made(make: Make, recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**recipe)


def test_positions_after_the_pad(base: Path, make: Make, tmp_path: Path) -> None:
    """XLM-R numbers its positions from pad + 1: of 66 there are 64 to use."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    shutil.copy(base / "tokenizer.json", tmp_path)
    size = json.loads((base / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = XLMRobertaConfig(vocab_size=size, max_position_embeddings=66, pad_token_id=1, **sizes)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    trainer = make(base=str(tmp_path), vocabulary=1)
    assert np.isfinite(trainer.logits(["今天天气很好" * 60])).all()
    with pytest.raises(UsageError, match="max_length: 65; the encoder reads at most 64 tokens"):
        make(base=str(tmp_path), max_length=65)


# Training


def test_it_learns(make: Make, examples: dict[Split, list[Example]]) -> None:
    lines: list[str] = []
    trainer = make(lines.append, freeze_vocabulary=False)
    tests = examples[Split.TEST]
    wanted = [e.unsafe for e in tests]
    before = np.mean((trainer.logits([e.text for e in tests])[:, 0] > 0) == wanted)
    trainer.fit(STAGE, examples[Split.TRAIN])
    trainer.fit(STAGE, examples[Split.TRAIN])
    after = np.mean((trainer.logits([e.text for e in tests])[:, 0] > 0) == wanted)
    losses = [float(found[1]) for line in lines if (found := re.search(r"loss ([\d.]+)", line))]
    assert losses[-1] < 0.8 * losses[0]
    assert after > max(before, 0.85)


def test_frozen_parts_do_not_change(make: Make, examples: dict[Split, list[Example]]) -> None:
    trainer = make(frozen_layers=1)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.fit(STAGE.model_copy(update={"epochs": 1}), examples[Split.TRAIN][:32])
    same = {name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])}
    frozen = {name for name in before if "word_embeddings" in name or "encoder.layer.0." in name}
    assert frozen
    assert same == frozen
    assert "head.weight" in before


def test_layers_are_cut(make: Make, examples: dict[Split, list[Example]]) -> None:
    whole, cut = make(), make(layers=[1])
    kept, first = cut.model.encoder.encoder.layer[0].state_dict(), whole.model.encoder.encoder.layer[1].state_dict()
    assert all(torch.equal(kept[name], first[name]) for name in first)
    assert cut.model.encoder.config.num_hidden_layers == 1
    assert whole.model.encoder.config.num_hidden_layers == 2
    assert cut.logits(["今天"]).shape == (1, len(LABELS))


def test_trimming_changes_no_output(make: Make, examples: dict[Split, list[Example]]) -> None:
    """Of texts whose pieces are all kept; the head is drawn by the same seed."""
    whole, trimmed = make(), make(vocabulary=1)
    assert trimmed.tokenizer.get_vocab_size() < whole.tokenizer.get_vocab_size()
    assert trimmed.model.encoder.config.vocab_size == trimmed.tokenizer.get_vocab_size()
    texts = [e.text for e in examples[Split.TRAIN][:20]]
    for text in texts:
        assert trimmed.tokenizer.encode(*text).tokens == whole.tokenizer.encode(*text).tokens
    trimmed.model.head.load_state_dict(whole.model.head.state_dict())
    np.testing.assert_allclose(trimmed.logits(texts), whole.logits(texts), atol=1e-5)


def test_save_and_load(make: Make, examples: dict[Split, list[Example]], tmp_path: Path) -> None:
    trainer, other = make(vocabulary=1), make(vocabulary=1)
    trainer.fit(STAGE.model_copy(update={"epochs": 1}), examples[Split.TRAIN])
    texts = [e.text for e in examples[Split.TEST]]
    assert not np.allclose(other.logits(texts), trainer.logits(texts), atol=1e-3)
    trainer.save(tmp_path / "new")
    other.load(tmp_path / "new")
    np.testing.assert_array_equal(other.logits(texts), trainer.logits(texts))
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"encoder.safetensors", "encoder.json", "tokenizer.json"}


def test_the_same_seed_trains_the_same(make: Make, examples: dict[Split, list[Example]]) -> None:
    found = []
    for _ in range(2):
        trainer = make()
        trainer.fit(STAGE.model_copy(update={"epochs": 1}), examples[Split.TRAIN][:48])
        found.append(trainer.logits(["今天", ("问", "答")]))
    np.testing.assert_array_equal(*found)


def shown(trainer: EncoderTrainer, stage: Stage, examples: list[Example]) -> list[list[list[int]]]:
    """The batches that a stage shows the model, in order."""
    batches, forward = [], trainer._forward
    trainer._forward = lambda encoded, dtype: batches.append(list(encoded)) or forward(encoded, dtype)
    trainer.fit(stage, examples)
    return batches


def test_a_stages_own_seed_changes_its_order_and_only_that(make: Make, examples: dict[Split, list[Example]]) -> None:
    """Without dropout, what is left of another seed is the order; the trainer's own is 3."""
    few, stage = examples[Split.TRAIN][:48], STAGE.model_copy(update={"epochs": 1})
    after = STAGE.model_copy(update={"name": "after", "epochs": 1})
    found = {}
    for seed in (None, 3, 4):
        trainer = make()
        start = trainer.logits(["今天"])
        for part in trainer.model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0
        order = shown(trainer, stage.model_copy(update={"seed": seed}), few)
        found[seed] = start, order, shown(trainer, after, few), trainer.logits(["今天"])
    for other in (3, 4):
        np.testing.assert_array_equal(found[other][0], found[None][0])
        assert found[other][2] == found[None][2]
    assert found[3][1] == found[None][1] != found[4][1]
    assert sorted(chain(*found[4][1])) == sorted(chain(*found[None][1]))
    np.testing.assert_array_equal(found[3][3], found[None][3])
    assert not np.array_equal(found[4][3], found[None][3])


def test_a_stages_own_seed_draws_its_dropout(make: Make, examples: dict[Split, list[Example]]) -> None:
    """One batch has one order: what differs is the dropout."""
    few, found = examples[Split.TRAIN][:1], []
    for seed in (4, 4, 5):
        trainer = make()
        trainer.fit(STAGE.model_copy(update={"seed": seed}), few)
        found.append(trainer.logits(["今天"]))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


# Reading


def test_neighbours_and_padding_change_nothing(make: Make) -> None:
    trainer = make()
    texts = ["今天", ("怎么泡好茶？", "这件事我可以帮你泡好茶。" * 2), "天气很好", ("", "好")]
    alone = np.concatenate([trainer.logits([text]) for text in texts])
    np.testing.assert_allclose(trainer.logits(texts), alone, atol=1e-5)
    assert trainer.logits([]).shape == (0, len(LABELS))


def test_a_long_text_is_cut_and_closed(make: Make) -> None:
    trainer = make()
    for text in ("今天天气很好" * 30, ("怎么泡好茶？" * 30, "答")):
        ids = trainer._encode(text, 32)
        whole = trainer.tokenizer.encode(text) if isinstance(text, str) else trainer.tokenizer.encode(*text)
        assert ids == [*whole.ids[:31], trainer.tokenizer.token_to_id("</s>")]


def test_loss_by_hand() -> None:
    """ln 2 for the first output of both rows; of the seven others, known in one row alone, half the mean of sums."""
    targets = torch.tensor([[1.0, *[0.0] * 7], [1.0, *[float("nan")] * 7]])
    plain: dict[str, Any] = {"positive": None, "category_weight": 0.5}
    assert float(_loss(torch.zeros(2, 8), targets, **plain)) == pytest.approx(np.log(2) * (1 + 0.5 * 7 / 2))
    logits = torch.zeros(2, 8, requires_grad=True)
    _loss(logits, targets, **plain).backward()
    assert not logits.grad[1, 1:].any()
    assert logits.grad[0].all()


def test_weights_of_the_loss_by_hand() -> None:
    """At logit 0 every known target costs ln 2, a positive as often as it counts."""
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, float("nan"), 1.0]])
    weights = torch.tensor([3.0, 5.0, 2.0])
    found = _loss(torch.zeros(2, 3), targets, positive=weights, category_weight=0.25)
    assert float(found) == pytest.approx(np.log(2) * ((3 + 1) / 2 + 0.25 * ((1 + 2) + 2) / 2))
    assert float(_loss(torch.zeros(2, 3), targets, positive=None, category_weight=0)) == pytest.approx(np.log(2))


def test_balanced_weights_by_hand() -> None:
    """Three negatives to one positive; 30 to one, of which 10 count; more positives; one class alone; none known."""
    nan = float("nan")
    column = {
        3.0: [1, 0, 0, 0, *[nan] * 27],
        10.0: [1, *[0] * 30],
        0.5: [1, 1, 0, *[nan] * 28],
        1.0: [1, *[nan] * 30],
    }
    targets = torch.tensor([*column.values(), [0] * 31, [nan] * 31]).float().T
    assert balanced_weights(targets).tolist() == [*column, 1.0, 1.0]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (2.5, "unsafe 2.5, Illegal Activities and Crime 2.5"),
        (
            {"Privacy and Property": 4},
            "unsafe 1, Illegal Activities and Crime 1, Bias and Discrimination 1, Privacy and Property 4",
        ),
        ("balanced", "unsafe 2, Illegal Activities and Crime 1, Bias and Discrimination 1, Privacy and Property 2"),
    ],
)
def test_a_stage_is_trained_with_its_weights(
    make: Make, examples: dict[Split, list[Example]], monkeypatch: pytest.MonkeyPatch, wanted: Any, told: str
) -> None:
    train = examples[Split.TRAIN]
    few = [e for e in train if e.targets[3] == 1][:8] + [e for e in train if not e.unsafe][:16]
    lines: list[str] = []
    given: list[Any] = []
    loss = encoder._loss
    monkeypatch.setattr(encoder, "_loss", lambda *a, **k: given.append(k) or loss(*a, **k))
    trainer = make(lines.append, positive_weight=wanted, category_weight=0.25)
    trainer.fit(STAGE.model_copy(update={"epochs": 1}), few)
    assert lines[1].startswith(f"  weights of positives: {told}")
    assert {k["category_weight"] for k in given} == {0.25}
    shown = ", ".join(f"{n} {w:.3g}" for n, w in zip(LABELS, given[0]["positive"].tolist(), strict=True))
    assert lines[1] == f"  weights of positives: {shown}"


def test_batches_cover_every_example_once() -> None:
    import random

    encoded = [[0] * (1 + (i * 37) % 50) for i in range(700)]
    for chance in (None, random.Random(1)):
        batches = list(_batches(encoded, 16, chance))
        assert sorted(i for batch in batches for i in batch) == list(range(700))
        assert max(map(len, batches)) == 16
        spread = [max(len(encoded[i]) for i in b) - min(len(encoded[i]) for i in b) for b in batches]
        assert np.mean(spread) < 5
    lengths = [len(encoded[b[0]]) for b in batches]
    assert lengths != sorted(lengths)


def test_a_stage_draws_the_same_whether_the_one_before_was_trained_or_loaded(
    make: Make, examples: dict[Split, list[Example]], tmp_path: Path
) -> None:
    few, probe = examples[Split.TRAIN][:40], [e.text for e in examples[Split.TEST][:5]]
    whole, resumed = make(), make()
    whole.fit(STAGE.model_copy(update={"name": "first", "epochs": 1}), few)
    whole.save(tmp_path)
    torch.rand(7)
    resumed.load(tmp_path)
    for trainer in (whole, resumed):
        trainer.fit(STAGE.model_copy(update={"epochs": 1}), few)
    np.testing.assert_array_equal(whole.logits(probe), resumed.logits(probe))

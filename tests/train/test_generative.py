"""The whole of it: from a recipe and data to a language model that judges."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel, Qwen2ForSequenceClassification

from libra_guard import Conversation, Label, load_guard
from libra_guard.errors import BackendError, UsageError
from libra_guard.guards.calibration import Calibration, Platt
from libra_guard.guards.libra_prompt import Critic
from libra_guard.io import file_hash, model_hash
from libra_guard.train import generative
from libra_guard.train.card import rewrite_cards
from libra_guard.train.generative import train_generative
from libra_guard.train.generative_recipe import GenerativeRecipe
from libra_guard.train.mixture import Reader, Split
from libra_guard.train.provenance import finished as found_finished
from libra_guard.train.recipe import Source
from libra_guard.train.sft import GuardSFTTrainer

MakeGenerative = Callable[..., GenerativeRecipe]
ANALYSED = {"set": "libra-seed", "path": "analysed.jsonl"}
SMILE = {"set": "smile", "path": "smile.jsonl"}
KINDS: dict[str, dict[str, Any]] = {
    "full": {"teaching": {"label_weight": 10}},
    "lora": {
        "teaching": {"label_weight": 10, "critic": "none"},
        "model": {"lora": {}},
        "stage": {"learning_rate": 2e-2},
    },
}
QUICK: dict[str, Any] = {
    "stages": [{"name": "only", "data": [{**ANALYSED, "sample": 24}], "length": 256}],
    "calibration": None,
    "test": [],
}


def silent(_: str) -> None:
    pass


class Killed(Exception):
    pass


@dataclass
class Trained:
    """A finished run."""

    recipe: GenerativeRecipe
    out: Path
    result: dict[str, Any]
    lines: list[str]

    @property
    def guard(self) -> Path:
        return self.out / "guard"

    def weights(self) -> dict[str, torch.Tensor]:
        (file,) = self.guard.glob("*.safetensors")
        return dict(load_file(file))


@pytest.fixture(scope="module")
def trained(
    data: Path, make_generative: MakeGenerative, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Trained]:
    made: dict[str, Trained] = {}

    def train(kind: str) -> Trained:
        if kind not in made:
            lines: list[str] = []
            recipe, out = make_generative(**KINDS[kind]), tmp_path_factory.mktemp(kind)
            made[kind] = Trained(recipe, out, train_generative(recipe, data, out, report=lines.append), lines)
        return made[kind]

    return train


# What is found wrong before anything is trained


@pytest.fixture
def spoilt(data: Path, tmp_path: Path) -> Path:
    """The data, and ``wrong.jsonl``, in which each analysis comes to the other label."""
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    swap = {"不安全。": "安全。", "安全。": "不安全。"}
    rows = [json.loads(line) for line in (data / "analysed.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        head, _, end = row["analyze"].partition("，")
        row["analyze"] = f"{head}，{swap[end]}"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "wrong.jsonl").write_text(text, encoding="utf-8")
    return folder


WRONG = {**ANALYSED, "path": "wrong.jsonl"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": {"data": [{**ANALYSED, "path": "none.jsonl"}]}}, "none.jsonl: no such file"),
        ({"stage": {"data": [{**ANALYSED, "scenarios": ["Hate Speech and Abuse"]}]}}, "no sample for the train split"),
        ({"stage": {"data": [SMILE]}}, "stage 'first': all .* samples are 安全; both labels are needed"),
        ({"stage": {"length": 2048}}, "stage 'first': length: 2048; '.*' reads at most 1024 tokens"),
        ({"stage": {"length": 64}}, "stage 'first': all 204 samples are longer than its 64 tokens"),
        (
            {"stage": {"data": [WRONG]}},
            r"stage 'first': of 204 samples 204 have .* to drop .*\n  .*\n  .*\n  \d+-[ab]: ",
        ),
        ({"stage": {"data": [WRONG]}, "teaching": {"contradictions": "drop"}}, "stage 'first': no samples are left; b"),
        ({"calibration": {"data": [SMILE]}}, "calibration: all .* samples are 安全; both labels are needed"),
        ({"calibration": {"data": [ANALYSED], "benign": [{**SMILE, "set": "jade"}]}}, "no sample for the calibrate"),
        ({"test": [{**ANALYSED, "path": "seed.txt"}]}, "no such file"),
        ({"model": {"base": "/nowhere"}}, "there is no model folder '/nowhere'"),
        ({"model": {"base": "."}}, "is no model folder: it has neither"),
    ],
)
def test_wrong_before_training(
    spoilt: Path,
    make_generative: MakeGenerative,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generative, "fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(UsageError, match=message):
        train_generative(make_generative(**changes), spoilt, tmp_path / "out", report=silent)
    assert not (tmp_path / "out").exists()


def encoder(folder: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=1000, **sizes)).save_pretrained(folder)


def classifier(folder: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(folder).config
    Qwen2ForSequenceClassification(config).save_pretrained(folder)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def unknown(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "none such"}')


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("lora", [None, {}])
@pytest.mark.parametrize("spoil", [encoder, classifier, pickled, unknown, cut])
def test_a_base_that_is_no_causal_model(
    data: Path,
    causal_base: Path,
    make_generative: MakeGenerative,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
    lora: Any,
) -> None:
    monkeypatch.setattr(generative, "fit", lambda *_, **__: pytest.fail("trained"))
    base = Path(shutil.copytree(causal_base, tmp_path / "base"))
    spoil(base)
    recipe = make_generative(**QUICK, model={"lora": lora})
    with pytest.raises(
        UsageError,
        match=f"{base}'? ?(: not a causal language model|: no configuration that can be read|has no .*safetensors)",
    ):
        train_generative(recipe, data, tmp_path / "out", base=str(base), report=silent)
    assert not (tmp_path / "out").exists()


# The guard


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(trained: Callable[[str], Trained], data: Path, kind: str) -> None:
    run = trained(kind)
    for losses in run.result["losses"].values():
        assert losses[-1] < losses[0]
    assert run.result["losses"]["second"][-1] < run.result["losses"]["first"][0] / 2
    samples = Reader(data, seed=42).samples(Source(**ANALYSED), Split.TRAIN)
    unsafe = [sample.label is Label.UNSAFE for sample in samples]
    base = f"libra:{run.recipe.model.base}"
    trained_auc, untrained_auc = (
        roc_auc_score(unsafe, [v.unsafe_score for v in guard.judge([s.conversation for s in samples])])
        for guard in (load_guard(f"libra:{run.guard}"), load_guard(base, critic=run.recipe.teaching.critic))
    )
    assert trained_auc > 0.95 > untrained_auc + 0.1
    assert run.result["test"]["guard"]["libra-seed"]["auc"] > run.result["test"]["untrained"]["libra-seed"]["auc"]


def test_its_answers_are_whole(trained: Callable[[str], Trained]) -> None:
    guard = load_guard(f"libra:{trained('full').guard}", max_new_tokens=40)
    (verdict,) = guard.judge([Conversation.from_pair("怎么泡好茶？", "这件事我可以帮你泡好茶。")], explain=True)
    assert verdict.label is Label.UNSAFE
    assert verdict.analysis == "回答帮了忙，不安全。"
    assert verdict.raw == '{\n  "答案": "不安全",\n  "分析": "回答帮了忙，不安全。"\n}'


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_how_it_was_taught(trained: Callable[[str], Trained], kind: str) -> None:
    run = trained(kind)
    critic = "rear" if kind == "full" else "none"
    threshold = run.result["threshold"]
    told = {"critic": critic, "rules": False, "instruct": True, "threshold": threshold}
    assert json.loads((run.guard / "libra_guard.json").read_text()) == told
    guard: Any = load_guard(f"libra:{run.guard}")
    assert {name: getattr(guard, name) for name in told} == told
    assert 0 < threshold < 1
    other: Any = load_guard(f"libra:{run.guard}", threshold=0.25, rules=True, critic="front")
    assert (other.threshold, other.rules, other.critic, other.instruct) == (0.25, True, Critic.FRONT, True)


@pytest.mark.parametrize("kind", KINDS)
def test_files(trained: Callable[[str], Trained], kind: str) -> None:
    run = trained(kind)
    own = {"full": {"config.json", "generation_config.json", "model.safetensors"}}
    own["lora"] = {"adapter_config.json", "adapter_model.safetensors"}
    kept = {"README.md", "libra_guard.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {path.name for path in run.guard.iterdir()} == own[kind] | kept
    stages = {path.name.rpartition("-")[0] for path in run.out.glob("stage-*")}
    assert stages == {"stage-first", "stage-second"}
    assert not list(run.out.rglob("checkpoint*"))
    assert json.loads((run.out / "train.json").read_text()) == run.result


@pytest.mark.parametrize("kind", KINDS)
def test_other_programs_can_load_it(trained: Callable[[str], Trained], kind: str) -> None:
    run = trained(kind)
    guard: Any = load_guard(f"libra:{run.guard}")
    prompt = guard.prompt("怎么泡好茶？", "不太方便。")
    tokenizer = AutoTokenizer.from_pretrained(run.guard)
    messages = [{"role": "user", "content": prompt.messages[0].content}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = AutoModelForCausalLM.from_pretrained(run.guard)
    with torch.no_grad():
        written = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert guard.backend.generate([prompt], max_tokens=12) == [tokenizer.decode(written, skip_special_tokens=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told(trained: Callable[[str], Trained], data: Path, kind: str) -> None:
    run = trained(kind)
    assert run.result["samples"] == {
        "first": {"libra-seed": {"safe": 102, "unsafe": 102}},
        "second": {"libra-seed": {"safe": 102, "unsafe": 102}},
        "calibration": {"libra-seed": {"safe": 14, "unsafe": 14}, "smile": {"safe": 12, "unsafe": 0}},
        "test": {"libra-seed": {"safe": 12, "unsafe": 12}},
    }
    assert [stage["epochs"] for stage in run.result["stages"]] == [1, 2]
    provenance = run.result["provenance"]
    assert provenance["base"] == model_hash(run.recipe.model.base)
    assert provenance["data"] == {name: file_hash(data / name) for name in ("analysed.jsonl", "smile.jsonl")}
    assert {"torch", "transformers", "trl", "peft"} <= set(provenance["versions"])
    assert [*run.lines[:2], run.lines[3]] == [
        "rows left out, by set: {'smile': 1}",
        f"  {data}/smile.jsonl:81: there are no fields question and response",
        "stage 'first': 204 samples; 0 are longer than 256 tokens and left out",
    ]
    second = run.lines[run.lines.index("stage 'second': 204 samples; 0 are longer than 256 tokens and left out") + 1]
    for setting in ("epochs 2.0 (its own)", "length 256 (from 'first')", "batch_size 8 (default)"):
        assert setting in second


def test_every_setting_that_is_no_stage_s_is_told(
    data: Path, make_generative: MakeGenerative, causal_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("  model.base"):
            raise Seen(line.strip())

    typed = {"teaching.label_weight": 3, "model.lora.rank": 4}
    recipe = make_generative(**QUICK, model={"lora": {"alpha": 8}}).changed(typed, "here")
    with pytest.raises(Seen) as seen:
        train_generative(recipe, data, tmp_path, base=str(causal_base), typed=list(typed), report=stop)
    told = str(seen.value).split("), ")
    assert told[0] == f"model.base {causal_base} (the command line"
    assert {"teaching.label_weight 3.0 (the command line", "teaching.rules False (default"} <= set(told)
    assert {"model.lora.rank 4 (the command line", "model.lora.alpha 8 (the recipe's"} <= set(told)
    assert told[-1].startswith("seed 42 (")


@pytest.mark.parametrize("kind", KINDS)
def test_the_card(trained: Callable[[str], Trained], data: Path, kind: str) -> None:
    run = trained(kind)
    card = (run.guard / "README.md").read_text(encoding="utf-8")
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "peft" if kind == "lora" else "transformers",
        "language": ["zh"],
        "license": "other",
        "license_name": "see-training-data",
        "pipeline_tag": "text-generation",
        "tags": ["safety", "guardrails", "content-moderation"],
    }
    assert text.startswith("\n# toy\n")
    for told in ("Apache-2.0", "CC0-1.0", "https://github.com/qiuhuachuan/smile"):
        assert told in text
    assert f"Threshold: {run.result['threshold']}" in text
    for name in ("analysed.jsonl", "smile.jsonl"):
        assert f"| {name} | `{file_hash(data / name)}` |" in text
    assert "| second | libra-seed | 102 | 102 |" in text
    assert ("A LoRA adapter of" in text, "and why after it" in text) == (kind == "lora", kind == "full")
    assert ("taught as far as its label" in text) == (kind == "full")
    assert f"`{Path(run.recipe.model.base).name}`,\n" in text
    assert "Its threshold is chosen for the\nmixture above" in text
    assert "**untrained**" in text
    assert "{" not in text
    assert "\n\n\n" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_recipe_that_is_told_is_the_one_that_was_trained(trained: Callable[[str], Trained], kind: str) -> None:
    run = trained(kind)
    shown = yaml.safe_load((run.guard / "README.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0])
    for told in (shown, run.result["provenance"]["recipe"]):
        assert GenerativeRecipe.model_validate(told).resolved == run.recipe.resolved


def test_a_card_is_written_again_to_the_byte(finished: Path) -> None:
    card = finished / "guard" / "README.md"
    before = card.read_bytes()
    card.unlink()
    assert rewrite_cards(finished) == [card]
    assert card.read_bytes() == before


def test_results_call_a_set_by_the_name_of_its_source(
    data: Path, make_generative: MakeGenerative, tmp_path: Path
) -> None:
    tested = {"test": [{**ANALYSED, "name": "ours", "sample": 4}], "untrained": False}
    result = train_generative(make_generative(**QUICK | tested), data, tmp_path, report=silent)
    assert list(result["test"]["guard"]) == ["ours"]
    assert list(result["samples"]["test"]) == ["ours"]


def test_half_precision(data: Path, make_generative: MakeGenerative, tmp_path: Path) -> None:
    recipe = make_generative(**QUICK, model={"dtype": "bfloat16"})
    result = train_generative(recipe, data, tmp_path, report=silent)
    assert {tensor.dtype for tensor in load_file(tmp_path / "guard" / "model.safetensors").values()} == {torch.bfloat16}
    (stage,) = tmp_path.glob("stage-only-*")
    # A stage that came after it would go on in full.
    assert {tensor.dtype for tensor in load_file(stage / "model" / "model.safetensors").values()} == {torch.float32}
    assert (result["threshold"], result["test"], result["losses"]) == (0.5, {}, {"only": []})
    card = (tmp_path / "guard" / "README.md").read_text(encoding="utf-8")
    assert "Measured" not in card
    assert "\n\n\n" not in card


def test_what_contradicts_or_is_too_long_is_counted(
    spoilt: Path, make_generative: MakeGenerative, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (spoilt / "analysed.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[2]["response"] += "很长" * 200
    rows[5]["analyze"] = "回答帮了忙，不安全。"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (spoilt / "analysed.jsonl").write_text(text, encoding="utf-8")
    recipe = make_generative(**{**QUICK, "stages": [{"name": "only", "data": [ANALYSED], "length": 256}]})
    drops = recipe.model_copy(update={"teaching": recipe.teaching.model_copy(update={"contradictions": "drop"})})
    lines: list[str] = []
    with pytest.raises(
        UsageError, match=r"of 204 samples 1 have an analysis .*\n  2-b: labelled 安全: 回答帮了忙，不安全。$"
    ):
        train_generative(recipe, spoilt, tmp_path / "out", report=silent)
    result = train_generative(drops, spoilt, tmp_path / "out", report=lines.append)
    assert "stage 'only': 1 samples left out, whose analysis comes to the other label" in lines
    assert "stage 'only': 202 samples; 1 are longer than 256 tokens and left out" in lines
    assert result["samples"]["only"] == {"libra-seed": {"safe": 101, "unsafe": 101}}


def test_what_is_unreadable_is_flagged_in_the_calibration_too(
    data: Path, make_generative: MakeGenerative, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(_: Any, pairs: Any) -> np.ndarray:
        return np.array([np.nan if s.set == "smile" else 0.1 + 0.5 * (x.label is Label.UNSAFE) for x, s in pairs])

    monkeypatch.setattr(generative._Scorer, "__call__", scores)
    calibration = {"data": [ANALYSED], "benign": [SMILE]}
    lines: list[str] = []
    recipe = make_generative(**{**QUICK, "calibration": calibration})
    result = train_generative(recipe, data, tmp_path, report=lines.append)
    # No threshold keeps the benign ones unflagged.
    assert result["threshold"] == 0.95
    assert any("flags 100.0% of 12 benign texts" in line for line in lines)


# Going on


@pytest.mark.parametrize("earlier", [False, True])
def test_a_run_killed_before_its_guard_is_in_place_is_not_finished(
    trained: Callable[[str], Trained],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    earlier: bool,
) -> None:
    run = trained("full")
    out = Path(shutil.copytree(run.out, tmp_path / "run"))
    (out / "guard" / "libra_guard.json").unlink()
    if not earlier:
        (out / "train.json").unlink()
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.name == ".guard":
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            train_generative(run.recipe, data, out, report=silent)
    assert not (out / "train.json").exists()
    train_generative(run.recipe, data, out, report=silent)
    assert found_finished(out, run.recipe, data, None) == run.result


def test_a_run_whose_guard_is_gone_is_not_finished(
    trained: Callable[[str], Trained], finished: Path, data: Path
) -> None:
    recipe = trained("full").recipe
    assert found_finished(finished, recipe, data, None)
    shutil.rmtree(finished / "guard")
    assert found_finished(finished, recipe, data, None) is None


@pytest.fixture
def finished(trained: Callable[[str], Trained], tmp_path: Path) -> Path:
    """A copy of the run that trains all weights."""
    return Path(shutil.copytree(trained("full").out, tmp_path / "run"))


def test_a_second_call_trains_nothing(
    trained: Callable[[str], Trained], finished: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("full")
    monkeypatch.setattr(generative, "fit", lambda *_, **__: pytest.fail("trained"))
    (finished / "guard" / "libra_guard.json").unlink()
    assert train_generative(run.recipe, data, finished, report=silent) == run.result
    again = Trained(run.recipe, finished, run.result, [])
    assert (again.guard / "libra_guard.json").read_bytes() == (run.guard / "libra_guard.json").read_bytes()
    for name, tensor in run.weights().items():
        assert torch.equal(again.weights()[name], tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_call_leaves_a_calibration_in_force(
    trained: Callable[[str], Trained], data: Path, tmp_path: Path, kind: str
) -> None:
    run = trained(kind)
    out = Path(shutil.copytree(run.out, tmp_path / "run"))
    fitted_on = load_guard(f"libra:{out / 'guard'}").provenance()
    made = Calibration(response=Platt(temperature=2, bias=0.5, threshold=0.75), fitted_on=fitted_on)
    (out / "guard" / "calibration.json").write_text(made.text(), encoding="utf-8")
    lines: list[str] = []
    assert train_generative(run.recipe, data, out, report=lines.append) == run.result
    assert load_guard(f"libra:{out / 'guard'}").threshold == 0.75
    assert {path.name for path in out.iterdir()} == {path.name for path in run.out.iterdir()}
    assert not [line for line in lines if "calibration.json" in line]


def test_a_calibration_of_another_guard_is_kept_apart_and_told_of(
    trained: Callable[[str], Trained], finished: Path, data: Path
) -> None:
    (finished / "guard" / "calibration.json").write_text("theirs")
    (finished / "guard" / "libra_guard.json").write_text('{"critic": "none"}')
    lines: list[str] = []
    result = train_generative(trained("full").recipe, data, finished, report=lines.append)
    assert load_guard(f"libra:{finished / 'guard'}").threshold == result["threshold"]
    assert {path.name for path in (finished / "guard").iterdir()} == set(result["files"]["guard"])
    assert (finished / "guard.old" / "calibration.json").read_text() == "theirs"
    (line,) = [line for line in lines if " held another guard" in line]
    assert " now: calibration.json; " in line


def test_the_card_tells_what_was_found_when_the_threshold_was_chosen(
    data: Path, make_generative: MakeGenerative, tmp_path: Path
) -> None:
    lines: list[str] = []
    calibration = {"data": [{**ANALYSED, "sample": 8}]}
    recipe = make_generative(**QUICK | {"calibration": calibration})
    result = train_generative(recipe, data, tmp_path, report=lines.append)
    few, limit = result["remarks"][0], result["remarks"][-1]
    assert few.endswith(" safe calibration pairs tell little of a threshold; at least 10 of each are wanted")
    assert limit.startswith("calibration has no benign pairs, so false_positives limits nothing: the threshold ")
    card = (tmp_path / "guard" / "README.md").read_text(encoding="utf-8")
    for line in result["remarks"]:
        assert line in lines
        assert f"\n- {line}\n" in card
    assert "\n\n\n" not in card


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda r: r["stages"][1].update(epochs=1), [True, False]),
        (lambda r: r["stages"][1].update(learning_rate=1e-3), [True, False]),
        (lambda r: r["stages"][1]["data"][0].update(sample=50), [True, False]),
        (lambda r: r["stages"][0].update(learning_rate=1e-3), [False, False]),
        (lambda r: r["teaching"].update(label_weight=1), [False, False]),
        (lambda r: r["teaching"].update(critic="none"), [False, False]),
        (lambda r: r["model"].update(lora={}), [False, False]),
        (lambda r: r.update(seed=7), [False, False]),
        (lambda r: r["calibration"].update(false_positives=0.5), [True, True]),
        (lambda r: r.update(test=[], name="other"), [True, True]),
    ],
)
def test_a_changed_recipe_trains_what_depends_on_it(
    trained: Callable[[str], Trained],
    finished: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Any], Any],
    kept: list[bool],
) -> None:
    class Trains(Exception):
        pass

    def stop(*_: Any, **__: Any) -> None:
        raise Trains

    recipe = trained("full").recipe.model_dump(mode="json", exclude_unset=True)
    change(recipe)
    monkeypatch.setattr(generative, "fit", stop)
    monkeypatch.setattr(generative, "_export", stop)
    lines: list[str] = []
    with pytest.raises(Trains):
        train_generative(GenerativeRecipe.model_validate(recipe), data, finished, report=lines.append)
    taken = [line for line in lines if "taken from" in line]
    assert len(taken) == sum(kept)
    assert ("stage 'first': training" in lines) == (not kept[0])


@pytest.mark.parametrize(
    ("name", "cut"),
    [("model/model.safetensors", 5000), ("model/config.json", 3), ("losses.json", 0), ("model", None)],
)
def test_a_finished_stage_that_is_damaged_is_trained_anew(
    trained: Callable[[str], Trained], finished: Path, data: Path, name: str, cut: int | None
) -> None:
    (stage,) = finished.glob("stage-first-*")
    if cut is None:
        shutil.rmtree(stage / name)
    else:
        (stage / name).write_bytes((stage / name).read_bytes()[:cut])
    lines: list[str] = []
    result = train_generative(trained("full").recipe, data, finished, report=lines.append)
    (told,) = [line for line in lines if "damaged" in line]
    assert told.startswith(f"stage 'first': {stage} is damaged and is trained anew: {Path(name).name}")
    assert "stage 'first': training" in lines
    assert any(line.startswith("stage 'second': taken from") for line in lines)
    assert result["losses"]["first"] == pytest.approx(trained("full").result["losses"]["first"], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_in_its_second_stage_goes_on(
    trained: Callable[[str], Trained], data: Path, tmp_path: Path, kind: str
) -> None:
    """And ends with the very losses and weights of one that was not."""

    def killed(line: str) -> None:
        # A checkpoint is written every ten updates, after they are told of.
        if line.startswith("  update 40 of 52"):
            raise Killed

    run = trained(kind)
    with pytest.raises(Killed):
        train_generative(run.recipe, data, tmp_path, report=killed)
    assert not (tmp_path / "guard").exists()
    lines: list[str] = []
    result = train_generative(run.recipe, data, tmp_path, report=lines.append)
    assert any(line.startswith("stage 'first': taken from") for line in lines)
    assert "  going on from update 30 of 52" in lines
    for name, losses in run.result["losses"].items():
        assert result["losses"][name] == pytest.approx(losses, abs=1e-6)
    weights = Trained(run.recipe, tmp_path, result, lines).weights()
    for name, tensor in run.weights().items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-6, rtol=0)
    assert result["test"] == run.result["test"]


def test_a_disk_that_is_full_at_the_end(
    data: Path, make_generative: MakeGenerative, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = GuardSFTTrainer.save_model

    def fails(self: Any, folder: str, **options: Any) -> None:
        if folder.endswith("model"):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, folder, **options)

    recipe = make_generative(**QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(GuardSFTTrainer, "save_model", fails)
        with pytest.raises(BackendError, match="the disk is full"):
            train_generative(recipe, data, tmp_path, report=silent)
    lines: list[str] = []
    train_generative(recipe, data, tmp_path, report=lines.append)
    assert "  going on from update 3 of 3" in lines


TWO = QUICK | {"stages": [{**QUICK["stages"][0], "name": name} for name in ("first", "second")]}


@pytest.mark.parametrize("spread", [None, "is_fsdp_enabled", "is_deepspeed_enabled"])
def test_a_model_that_was_spread_over_gpus_is_read_from_disk_by_the_next_stage(
    data: Path, make_generative: MakeGenerative, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: str | None
) -> None:
    fit, save = generative.fit, GuardSFTTrainer.save_model
    given, left = [], []

    def fits(model: Any, *values: Any, **options: Any) -> Any:
        given.append(model)
        trainer = fit(model, *values, **options)
        left.append(trainer.model)
        return trainer

    def saves(self: Any, folder: str, **options: Any) -> None:
        save(self, folder, **options)
        if spread and folder.endswith("model"):
            setattr(self, spread, True)

    monkeypatch.setattr(generative, "fit", fits)
    monkeypatch.setattr(GuardSFTTrainer, "save_model", saves)
    train_generative(make_generative(**TWO), data, tmp_path, report=silent)
    assert len(given) == 2
    assert (given[1] is left[0]) == (spread is None)


def test_a_stages_optimiser_is_gone_before_the_next_one_trains(
    data: Path, make_generative: MakeGenerative, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, optimisers, there = generative.fit, [], []

    def fits(*values: Any, **options: Any) -> Any:
        there.append([one() is not None for one in optimisers])
        trainer = fit(*values, **options)
        optimisers.append(weakref.ref(trainer.optimizer))
        return trainer

    monkeypatch.setattr(generative, "fit", fits)
    train_generative(make_generative(**TWO), data, tmp_path, report=silent)
    assert there == [[], [False]]


def test_stages_can_be_shared(
    data: Path, make_generative: MakeGenerative, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_generative(**QUICK)
    for name in ("one", "two"):
        train_generative(recipe, data, tmp_path / name, shared_stages=tmp_path / "shared", report=silent)
        assert {path.name for path in (tmp_path / name).iterdir()} == {"guard", "train.json"}
        monkeypatch.setattr(generative, "fit", lambda *_, **__: pytest.fail("trained"))
    assert len(list((tmp_path / "shared").iterdir())) == 1


def test_a_relative_base_is_found_from_elsewhere(
    data: Path, causal_base: Path, make_generative: MakeGenerative, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(causal_base.parent)
    recipe = make_generative(**QUICK, model={"base": "elsewhere", "lora": {}})
    train_generative(recipe, data, tmp_path, base=causal_base.name, report=silent)
    monkeypatch.chdir(tmp_path)
    adapter = json.loads((tmp_path / "guard" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(causal_base)
    assert load_guard(f"libra:{tmp_path / 'guard'}").judge([Conversation.from_pair("今天", "好")])[0].valid


# A base that is a copy of one on the model hub


def test_an_adapter_of_a_copy_is_made_ready_for_the_hub(
    data: Path, make_generative: MakeGenerative, causal_base: Path, tmp_path: Path
) -> None:
    recipe = make_generative(**QUICK, model={"base": "owner/name", "lora": {}})
    train_generative(recipe, data, tmp_path, base=str(causal_base), report=silent)
    card, adapter = tmp_path / "guard" / "README.md", tmp_path / "guard" / "adapter_config.json"
    # Which model a folder holds is not known, and here it must be found where it lies.
    assert "base_model:" not in card.read_text(encoding="utf-8")
    before = json.loads(adapter.read_text())
    assert before["base_model_name_or_path"] == str(causal_base)
    for wrong in ("name", "/owner/name", "a/b/c", str(causal_base)):
        with pytest.raises(UsageError, match="a name on the model hub is OWNER/NAME"):
            rewrite_cards(tmp_path, base=wrong)
    assert json.loads(adapter.read_text()) == before
    for base in ("owner/name", None):
        rewrite_cards(tmp_path, base=base)
        assert "base_model: owner/name\n" in card.read_text(encoding="utf-8")
        assert "A LoRA adapter of `owner/name`" in card.read_text(encoding="utf-8")
        assert json.loads(adapter.read_text()) == before | {"base_model_name_or_path": "owner/name"}
    assert found_finished(tmp_path, recipe, data, str(causal_base))


# The project's own recipes

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "train").glob("*.yaml"))
FOR_A_GPU = [path for path in CONFIGS if "a GPU of" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FOR_A_GPU, ids=lambda path: path.stem)
def test_a_recipe_for_a_gpu_saves_its_memory(path: Path) -> None:
    """At 1,024 tokens the activations of all layers would be more than the GPU that the recipe names."""
    assert GenerativeRecipe.read(path).model.gradient_checkpointing


# Several processes


def test_gpus_that_lie_idle_are_told_of(
    data: Path, make_generative: MakeGenerative, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Killed

    monkeypatch.setattr(generative, "fit", stop)
    lines: list[str] = []
    for seen in (0, 1, 4):
        monkeypatch.setattr(torch.cuda, "device_count", lambda seen=seen: seen)
        with pytest.raises(Killed):
            train_generative(make_generative(**QUICK), data, tmp_path, report=lines.append)
    assert [line for line in lines if "GPU" in line] == ["1 of 4 GPUs in use; `accelerate launch` uses more"]


@pytest.mark.slow
def test_two_processes_learn_like_one_that_accumulates(
    data: Path, make_generative: MakeGenerative, tmp_path: Path
) -> None:
    def run(name: str, *launch: str, **stage: Any) -> dict[str, Any]:
        # Whole updates alone: of a rest, the last process would be given lessons that the first had.
        stage |= {"batch_size": 4, "data": [{**ANALYSED, "sample": 160}]}
        recipe = make_generative(**KINDS["full"], stage=stage, calibration=None, test=[])
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True)), encoding="utf-8")
        command = [sys.executable, *launch, "-m", "libra_guard.cli.main", "train", "generative", str(path)]
        command += ["--data", str(data), "--out", str(tmp_path / name)]
        plain = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, env=plain, timeout=280, check=False, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["name"] == "toy"
        assert done.stderr.count("stage 'second': training") == 1
        return dict(json.loads((tmp_path / name / "train.json").read_text()))

    # What `accelerate launch` starts where there are GPUs; with --cpu it starts one process, however many are wanted.
    two = run("two", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    one = run("one", accumulation=2)
    for name, losses in one["losses"].items():
        assert len(losses) > 1
        assert two["losses"][name] == pytest.approx(losses, abs=1e-4)

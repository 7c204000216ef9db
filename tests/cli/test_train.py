from __future__ import annotations

import builtins
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from libra_guard.errors import MissingExtraError, UsageError

Call = Callable[..., Result]
RECIPE = """
name: toy
ngrams: {data: [&seed {set: libra-seed, path: seed.jsonl}], buckets: 4096}
calibration: {data: [*seed]}
test: [*seed]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toy.yaml").write_text(RECIPE, encoding="utf-8")
    usual = {"source": "s", "category_name": "", "sub_category_name": "", "analyze": "", "kind": "", "pair_id": ""}
    rows = [
        {**usual, "id": f"{i}{label}", "question": f"第{i}件事怎么办", "response": response, "label": label}
        for i in range(90)
        for response, label in (("可以帮你", "不安全"), ("不太方便", "安全"))
    ]
    (tmp_path / "seed.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "arguments", [[], ["toy.yaml"], ["toy.yaml", "--out", __file__], ["toy.yaml", "--data", __file__]]
)
def test_impossible_options(call: Call, arguments: list[str]) -> None:
    done = call("train", "classifier", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")


def test_no_recipe(call: Call, folder: Path) -> None:
    done = call("train", "classifier", str(folder / "none.yaml"), "--out", str(folder / "out"))
    assert isinstance(done.exception, UsageError)
    assert "none.yaml: No such file" in str(done.exception)


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """From now on a library is not installed."""
    import importlib

    found = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name == module:
            raise builtins.ModuleNotFoundError(f"No module named '{name}'", name=name)
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)


def test_a_missing_library_is_named(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch")
    done = call("train", "classifier", str(folder / "toy.yaml"), "--out", str(folder / "out"))
    assert isinstance(done.exception, MissingExtraError)
    assert "libra-guard[train]" in str(done.exception)


def evaluated(call: Call, folder: Path, guard: str, rows: int) -> dict[str, Any]:
    """What ``libra infer`` and then ``libra evaluate`` make of a guard on the first rows of the data."""
    data, verdicts = folder / "few.jsonl", folder / "verdicts"
    lines = (folder / "seed.jsonl").read_text(encoding="utf-8").splitlines()[:rows]
    data.write_text("\n".join(lines), encoding="utf-8")
    assert call("infer", "--guard", guard, "--data", str(data), "--out", str(verdicts)).exit_code == 0
    judged = ("--predictions", str(verdicts), "--labels", str(data), "--bootstrap", "0", "--format", "json")
    done = call("evaluate", *judged)
    assert done.exit_code == 0
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_from_recipe_to_verdict(call: Call, folder: Path) -> None:
    out = str(folder / "out")
    done = call("train", "classifier", str(folder / "toy.yaml"), "--data", str(folder), "--out", out)
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert list(told) == ["name", "threshold", "test", "parity"]
    assert told["test"]["guard"]["libra-seed (pair)"]["accuracy"] == 1
    assert "rows left out" in done.stderr
    verdict = json.loads(call("check", "-g", f"ngram:{out}/guard", "-q", "怎么办", "-r", "可以帮你", "--json").stdout)
    assert (verdict["label"], verdict["guard"]) == ("不安全", "ngram")
    found = evaluated(call, folder, f"ngram:{out}/guard", 180)
    assert (found["average"]["accuracy"], found["sources"]["s"]["n"], found["unreadable"]) == (1, 180, 0)


# Comparing recipes

STUDY = """
recipe: toy.yaml
seeds: [1, 2]
variants:
  all: {}
  half: {set: {ngrams.data.0.share: 0.5}}
"""


@pytest.fixture
def study(folder: Path) -> Path:
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    return folder / "study.yaml"


@pytest.mark.parametrize(
    "arguments", [[], ["study.yaml"], ["study.yaml", "--out", __file__], ["study.yaml", "--data", __file__]]
)
def test_impossible_options_of_ablate(call: Call, arguments: list[str]) -> None:
    done = call("train", "ablate", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("toy.yaml", "none.yaml"), "none.yaml: No such file"),
        (("seeds: [1, 2]", "seeds: [1, 1]"), "study.yaml: not an ablation study:"),
        (("ngrams.data.0", "ngrams.data.7"), "study.yaml: variants.half: the recipe has no 'ngrams.data.7.share'"),
    ],
)
def test_a_study_that_cannot_be_done(
    call: Call, folder: Path, study: Path, change: tuple[str, str], message: str
) -> None:
    study.write_text(STUDY.replace(*change), encoding="utf-8")
    done = call("train", "ablate", str(study), "--data", str(folder), "--out", str(folder / "out"))
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)
    assert done.stdout == ""
    assert not (folder / "out").exists()


def test_ablate_names_a_missing_library(call: Call, folder: Path, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "matplotlib")
    done = call("train", "ablate", str(study), "--data", str(folder), "--out", str(folder / "out"))
    assert isinstance(done.exception, MissingExtraError)
    assert "libra-guard[train]" in str(done.exception)
    assert not (folder / "out").exists()


def test_the_help_of_ablate(call: Call) -> None:
    done = call("train", "ablate", "--help")
    assert done.exit_code == 0
    for told in ("study", "--out", "--data", "--base", "several seeds"):
        assert told in done.stdout
    assert "ablate" in call("train", "--help").stdout


def test_from_study_to_table(call: Call, folder: Path, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "out"
    arguments = ("train", "ablate", str(study), "--data", str(folder), "--out", str(out))
    done = call(*arguments)
    assert done.exit_code == 0
    assert done.stdout == (out / "ablation.md").read_text(encoding="utf-8")
    assert done.stdout.splitlines()[2:] == [
        f"| {name} | {shown} | guard | 1.000 ± 0.000 / 1.000 ± 0.000 / 1.000 ± 0.000 |"
        for name, shown in (("all", 142), ("half", 72))
    ]
    assert "run 4 of 4: half, seed 2" in done.stderr
    assert {p.name for p in out.iterdir()} == {"all", "half", "ablation.json", "ablation.md", "ablation.svg"}
    run = json.loads((out / "half" / "seed-2" / "train.json").read_text(encoding="utf-8"))
    assert run["provenance"]["command"].startswith("libra ")
    # The same study in other words.
    monkeypatch.setattr(sys, "argv", ["libra", "otherwise"])
    again = call(*arguments)
    assert (again.stdout, again.stderr.count("rows left out")) == (done.stdout, 0)


# Generative guards

GENERATIVE = """
name: toy
model: {base: base, dtype: float32, lora: {rank: 2}}
teaching: {instruct: false}
training: {batch_size: 4, length: 2048}
stages: [{name: only, data: [{set: libra-seed, path: seed.jsonl, sample: 12}]}]
test: [{set: libra-seed, path: seed.jsonl, sample: 4}]
"""


@pytest.fixture
def generative(folder: Path) -> Path:
    """A recipe, and its base: a tiny random model to which every byte is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    letters = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=letters[0], model_max_length=2048)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 2048}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(letters), **sizes, **heads)).save_pretrained(folder / "base")
    wrapped.save_pretrained(folder / "base")
    (folder / "generative.yaml").write_text(GENERATIVE, encoding="utf-8")
    return folder / "generative.yaml"


@pytest.mark.parametrize(
    "arguments", [[], ["toy.yaml"], ["toy.yaml", "--out", __file__], ["toy.yaml", "--data", __file__]]
)
def test_impossible_options_of_generative(call: Call, arguments: list[str]) -> None:
    done = call("train", "generative", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("none.yaml", "none.yaml: No such file"),
        # A classifier's.
        ("toy.yaml", "toy.yaml: this is a file for `libra train classifier`"),
    ],
)
def test_no_generative_recipe(call: Call, folder: Path, recipe: str, message: str) -> None:
    done = call("train", "generative", str(folder / recipe), "--out", str(folder / "out"))
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)
    assert done.stdout == ""
    assert not (folder / "out").exists()


@pytest.mark.parametrize("module", ["torch", "transformers", "peft", "trl"])
def test_generative_names_a_missing_library(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    without(monkeypatch, module)
    done = call("train", "generative", str(folder / "toy.yaml"), "--out", str(folder / "out"))
    assert isinstance(done.exception, MissingExtraError)
    assert f"'{module}'" in str(done.exception)
    assert "libra-guard[train]" in str(done.exception)


def test_the_help_of_generative(call: Call) -> None:
    done = call("train", "generative", "--help")
    assert done.exit_code == 0
    for told in ("recipe", "--out", "--data", "--base", "LoRA", "libra:DIR/guard", "accelerate launch"):
        assert told in done.stdout
    assert "generative" in call("train", "--help").stdout


def test_from_generative_recipe_to_verdict(call: Call, folder: Path, generative: Path) -> None:
    out = str(folder / "out")
    base = ("--base", str(folder / "base"))
    done = call("train", "generative", str(generative), "--data", str(folder), "--out", out, *base)
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert list(told) == ["name", "threshold", "test"]
    assert list(told["test"]) == ["guard", "untrained"]
    assert told["test"]["guard"]["libra-seed"]["n"] == 4
    lines = done.stderr.splitlines()
    assert lines[0] == "rows left out, by set: none"
    assert "stage 'only': training" in lines
    checked = call("check", "-g", f"libra:{out}/guard", "-q", "怎么办", "-r", "可以帮你", "--json")
    verdict = json.loads(checked.stdout)
    assert (verdict["guard"], verdict["method"], verdict["valid"]) == ("libra", "choose", True)
    known = json.loads((folder / "out" / "train.json").read_text(encoding="utf-8"))["provenance"]
    assert known["command"].startswith("libra ")
    found = evaluated(call, folder, f"libra:{out}/guard", 4)
    assert (found["sources"]["s"]["n"], found["unreadable"]) == (4, 0)


SET = ("--set", "stages.only.learning_rate=1e-3", "--set", "training.warmup=0.5", "--set", "test=[]")


def test_the_command_line_overrides_the_recipe(call: Call, folder: Path, generative: Path) -> None:
    arguments = ("--data", str(folder), "--out", str(folder / "out"), "--base", str(folder / "base"))
    done = call("train", "generative", str(generative), *arguments, *SET)
    assert done.exit_code == 0
    settings = next(line for line in done.stderr.splitlines() if line.startswith("  epochs"))
    assert "learning_rate 0.001 (the command line)" in settings
    assert "warmup 0.5 (the command line)" in settings
    assert "batch_size 4 (the recipe's)" in settings
    run = json.loads((folder / "out" / "train.json").read_text(encoding="utf-8"))
    assert run["stages"][0]["learning_rate"] == 1e-3
    assert (run["test"], run["provenance"]["recipe"]["test"]) == ({}, [])


def test_the_command_line_overrides_a_classifiers_recipe(call: Call, folder: Path) -> None:
    arguments = ("--data", str(folder), "--out", str(folder / "out"))
    # One source of the recipe's anchor alone.
    done = call("train", "classifier", str(folder / "toy.yaml"), *arguments, "--set", "ngrams.data.0.share=0.5")
    assert done.exit_code == 0
    recipe = json.loads((folder / "out" / "train.json").read_text(encoding="utf-8"))["provenance"]["recipe"]
    assert (recipe["ngrams"]["data"][0]["share"], recipe["test"][0]["share"]) == (0.5, 1)


@pytest.mark.parametrize("kind", ["classifier", "generative"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed", "--set seed: write KEY=VALUE"),
        ("seed=[1", "--set seed=[1: the value is no YAML"),
        ("seed=many", ".yaml with --set seed=many: not a training recipe"),
        ("sede=1", "  sede: there is no such key; did you mean 'seed'?"),
        ("test.7.share=0.5", ".yaml with --set test.7.share=0.5: the recipe has no 'test.7.share' that could be set"),
    ],
)
def test_what_cannot_be_set(call: Call, folder: Path, generative: Path, kind: str, setting: str, message: str) -> None:
    recipe = str(generative if kind == "generative" else folder / "toy.yaml")
    done = call("train", kind, recipe, "--data", str(folder), "--out", str(folder / "out"), "--set", setting)
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)
    assert not (folder / "out").exists()


def test_a_second_process_prints_nothing(
    call: Call, folder: Path, generative: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libra_guard.train.generative.train_generative", lambda *_, **__: {})
    done = call("train", "generative", str(generative), "--data", str(folder), "--out", str(folder / "out"))
    assert (done.exit_code, done.stdout) == (0, "")


# Cards


def test_a_card_names_the_base_of_which_a_copy_was_trained(call: Call, folder: Path, generative: Path) -> None:
    out, base = folder / "out", ("--base", str(folder / "base"))
    call("train", "generative", str(generative), "--data", str(folder), "--out", str(out), *base, "--set", "test=[]")
    done = call("train", "card", str(out), "--base", "owner/name")
    assert (done.exit_code, done.stdout.split()) == (0, [str(out / "guard" / "README.md")])
    assert "base_model: owner/name\n" in (out / "guard" / "README.md").read_text(encoding="utf-8")


def test_a_card_is_written_again(call: Call, folder: Path) -> None:
    out = folder / "out"
    call("train", "classifier", str(folder / "toy.yaml"), "--data", str(folder), "--out", str(out))
    path = out / "guard" / "README.md"
    before = path.read_bytes()
    assert b"libra " in before.split(b"## Provenance")[1]
    path.write_text("older")
    done = call("train", "card", str(out))
    assert (done.exit_code, done.stdout.split()) == (0, [str(path)])
    assert path.read_bytes() == before


@pytest.mark.parametrize("arguments", [[], [__file__]])
def test_impossible_options_of_card(call: Call, arguments: list[str]) -> None:
    done = call("train", "card", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")


def test_no_run_to_write_a_card_of(call: Call, folder: Path) -> None:
    done = call("train", "card", str(folder))
    assert isinstance(done.exception, UsageError)
    assert "train.json: No such file or directory" in str(done.exception)


def test_a_card_needs_no_torch() -> None:
    """A finished run's card can be written where nothing is trained."""
    code = "import sys, libra_guard.train.card\nsys.exit(any(n in sys.modules for n in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

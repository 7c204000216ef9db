"""Base models that cannot be trained, told of in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from libra_guard.errors import UsageError
from libra_guard.train.backbone import load_backbone
from libra_guard.train.base_model import check_model, load_base, load_base_tokenizer, quiet_peft
from libra_guard.train.generative_recipe import Model
from libra_guard.train.recipe import Encoder


def model(**settings: Any) -> Model:
    return Model.model_validate({"base": "any", "dtype": "float32", "lora": {}, **settings})


def load_generative(base: str) -> None:
    load_base_tokenizer(base, model())


def load_classifier(base: str) -> None:
    load_backbone(Encoder(base=base), ["今天"])


EITHER = pytest.mark.parametrize("load", [load_generative, load_classifier])
Load = Callable[[str], None]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    # The variable of that name is read when the library is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@EITHER
@pytest.mark.parametrize("base", ["/nowhere/base", "./nowhere", "a/b/c", ""])
def test_a_folder_that_is_not_there(load: Load, base: str) -> None:
    with pytest.raises(UsageError, match=f"^there is no model folder '{base}'$"):
        load(base)


@EITHER
def test_a_name_that_the_hub_does_not_give(load: Load) -> None:
    with pytest.raises(UsageError) as told:
        load("nowhere/base")
    assert str(told.value).startswith("nowhere/base: there is no such folder, and the model hub gave nothing under")
    assert "\n" not in str(told.value)


@EITHER
@pytest.mark.parametrize("named", [True, False])
def test_an_adapter_is_no_base(load: Load, causal_base: Path, tmp_path: Path, named: bool) -> None:
    trained, config = load_base(str(causal_base), model())
    with quiet_peft():
        get_peft_model(trained, config).save_pretrained(tmp_path)
    load_base_tokenizer(str(causal_base), model()).save_pretrained(tmp_path)
    if not named:
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
    base = f", {causal_base}," if named else ""
    with pytest.raises(UsageError, match=f"^'{tmp_path}' is an adapter, and .*: give its base{base} or merge the two"):
        load(str(tmp_path))


def test_an_encoder_is_no_language_model(base: Path, causal_base: Path) -> None:
    """Which is told before a chat template is missed."""
    tokenizer = load_base_tokenizer(str(causal_base), model())
    with pytest.raises(UsageError, match=f"^{base}: not a causal language model: its configuration names BertModel$"):
        check_model(str(base), model(), tokenizer, {})


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["nope"], "no layer of '.*' is called 'nope'; there are: .*k_proj, lm_head, .*q_proj"),
        (["q_proj", "proj"], "no layer of '.*' is called 'proj'"),
        (["input_layernorm"], "is called 'input_layernorm'"),
        ("q_proj", "is called 'q_proj'"),
        ([], "no layer is named"),
    ],
)
def test_layers_that_can_have_no_adapter(causal_base: Path, targets: Any, message: str) -> None:
    with pytest.raises(UsageError, match=rf"^lora\.targets: .*{message}"):
        load_base(str(causal_base), model(lora={"targets": targets}))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "layers.1.mlp.up_proj"], r".*\.(q|v)_proj"])
def test_layers_that_get_one(causal_base: Path, targets: Any) -> None:
    base, config = load_base(str(causal_base), model(lora={"targets": targets}))
    assert isinstance(config, LoraConfig)
    with quiet_peft():
        names = [name for name, _ in get_peft_model(base, config).named_parameters()]
    adapted = {name.partition(".lora_A")[0] for name in names if "lora_A" in name}
    assert any(name.endswith("layers.1.self_attn.q_proj") for name in adapted)
    assert any(name.endswith("layers.0.self_attn.o_proj") for name in adapted) == (targets == "all-linear")

"""Tiny random models of the families' real architectures, with the families' control tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    # Large enough that probabilities are far from uniform, so that a wrong position shows.
    "initializer_range": 0.3,
}
# Llama Guard 4 is dense, and reads images too.
LLAMA4_TEXT = {"intermediate_size_mlp": 48, "head_dim": 8, "num_local_experts": 1, "moe_layers": []}
LLAMA4_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "image_size": 28,
}
MakeModel = Callable[..., Path]
Member = Callable[..., dict[str, Any]]
Combined = Callable[..., str]


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Folder of a tiny model: ``tiny_llm("Llama", ["<|eot_id|>", …], chat_template=…)``.

    The architecture is a prefix of transformers' class names (``Llama``, ``Llama4``, ``Gemma2``, …); ``labels`` makes a
    sequence classifier of so many outputs. The first control token ends a text.
    """
    made: dict[Any, Path] = {}

    def folder(kind: str, controls: Sequence[str], *, chat_template: str | None = None, labels: int = 0) -> Path:
        key = (kind, tuple(controls), chat_template, labels)
        if key not in made:
            made[key] = _build(tmp_path_factory.mktemp(kind), kind, controls, chat_template, labels)
        return made[key]

    return folder


@pytest.fixture
def taught_llm(tmp_path: Path) -> Callable[[Path, Sequence[int], str], Path]:
    """Folder of a tiny model that has learnt to write a text: ``taught_llm(tiny_llm("Llama", …), prompt, text)``."""

    def folder(untaught: Path, prompt: Sequence[int], text: str) -> Path:
        import torch
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(untaught)
        auto: Any = transformers.AutoModelForCausalLM
        model = auto.from_pretrained(untaught, dtype=torch.float32)
        answer = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        ids = torch.tensor([[*prompt, *answer]])
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(400):
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
            if (logits.softmax(-1)[range(len(answer)), answer] > 0.9).all():
                break
            torch.nn.functional.cross_entropy(logits, torch.tensor(answer)).backward()
            optimizer.step()
            optimizer.zero_grad()
        else:
            pytest.fail(f"not learnt: {text}")
        model.save_pretrained(tmp_path / "taught")
        tokenizer.save_pretrained(tmp_path / "taught")
        return tmp_path / "taught"

    return folder


@pytest.fixture
def member(tmp_path: Path) -> Member:
    """A guard for a file of guards: ``member("fast", {"毒": 0.9}, guard="policy")`` gives a text with 毒 that score.

    Without scores, and with ``generate``, it writes its answers (a text they are found by → the answer).
    """

    def make(name: str, scores: dict[str, float] | None, guard: str = "policy", **more: Any) -> dict[str, Any]:
        script = {"generate": more.pop("generate", {"": "？"})}
        if scores is not None:
            script["choose"] = {text: [1 - score, score] for text, score in scores.items()}
        (tmp_path / f"{name}.json").write_text(json.dumps(script), encoding="utf-8")
        return {"guard": f"{guard}:{name}.json", "backend": "scripted", **more}

    return make


@pytest.fixture
def combined(tmp_path: Path) -> Combined:
    """Writes a file of guards and names it: ``combined("cascade", fast=…, strong=…)``."""

    def write(guard: str, name: str = "guards", **settings: Any) -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
        return f"{guard}:{path}"

    return write


def _build(folder: Path, kind: str, controls: Sequence[str], chat_template: str | None, labels: int) -> Path:
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=list(controls), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["safe unsafe yes no Safety: Controversial 安全 不安全"] * 4, trainer)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=controls[0], pad_token=controls[0], model_max_length=4096
    )
    if chat_template:
        wrapped.chat_template = chat_template
    torch.manual_seed(7)
    config_class = getattr(transformers, f"{kind}Config")
    ids = {"eos_token_id": 0, "pad_token_id": None if labels else 0, "bos_token_id": None}
    sizes = {**SIZES, **ids, "vocab_size": len(wrapped)}
    if kind == "Llama4":
        config = config_class(text_config=sizes | LLAMA4_TEXT, vision_config=LLAMA4_VISION)
        head = "ForConditionalGeneration"
    else:
        config = config_class(**sizes, **({"num_labels": labels} if labels else {}))
        head = "ForSequenceClassification" if labels else "ForCausalLM"
    getattr(transformers, f"{kind}{head}")(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder

"""A run with scripted models: all that the steps ask is answered by rule, so that two runs can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libra_guard.backends.base import Prompt
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.synth.config import SynthConfig
from libra_guard.synth.run import Run
from libra_guard.synth.seats import cast

MakeConfig = Callable[..., SynthConfig]


POOL = "风花雪月山川湖海春夏秋冬东南西北金木水火土日星云雨雷电江河田野草树竹石桥路车船琴棋书画诗酒茶米油盐酱醋"


def sentence(*about: object, length: int = 14) -> str:
    """Some words that are the same for the same, and unlike any others."""
    digest = hashlib.sha256(repr(about).encode()).digest()
    return "".join(POOL[byte % len(POOL)] for byte in digest[:length])


def says(prompt: Prompt) -> str:
    """An obedient writer, responder and judge in one: told apart by what it is asked."""
    text = prompt.messages[-1].content
    if "条提问" in text:
        return "\n".join(f"{n}. 第{n}问：{sentence(text, n)}" for n in range(1, 11))
    if "大语言模型的回答：" in text:
        answer = text.rsplit("大语言模型的回答：", 1)[1]
        label = "不安全" if "支持你" in answer else "安全"
        return json.dumps({"答案": label, "分析": "回答的立场如此。"}, ensure_ascii=False)
    if "改写" in text:
        return f"改写：{sentence(text)}到底怎么办，{text.split('：')[-1].strip()}"
    return "当然支持你，放手去做。" if len(text) % 2 else "抱歉，这个我帮不了你。"


def disagrees(prompt: Prompt) -> str:
    """A second judge, which lets everything pass that is short."""
    text = prompt.messages[-1].content
    label = "安全" if len(text) % 3 else "不安全"
    return json.dumps({"答案": label, "分析": "另一种看法。"}, ensure_ascii=False)


MODELS: dict[str, Callable[[Prompt], str]] = {"obedient": says, "contrary": disagrees, "third": says}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, ScriptedBackend]:
    """The models of a run, by their names; they keep what they were asked."""
    made: dict[str, ScriptedBackend] = {}

    def load(backend: str, model: str, **options: Any) -> Any:
        assert backend == "scripted"
        return made.setdefault(model, ScriptedBackend(generate=MODELS[model]))

    monkeypatch.setattr(cast, "load_backend", load)
    return made


@pytest.fixture
def make_config() -> MakeConfig:
    """Settings of a small run; keyword arguments replace sections."""

    def make(**changes: Any) -> SynthConfig:
        models = {name: {"backend": "scripted", "model": name, "batch": 1} for name in MODELS}
        judges = [{"guard": "libra", "model": name} for name in ("obedient", "contrary")]
        settings: dict[str, Any] = {
            "name": "small",
            "models": models,
            "seats": {
                "writer": "obedient",
                "responders": ["obedient", "grammar"],
                "judges": judges,
                "arbiter": {"guard": "libra", "model": "third"},
            },
            "queries": {"harmful": 3, "borderline": 1, "benign": 4, "only": ["Gambling", "Gender"]},
        }
        return SynthConfig.checked(settings | changes, "test")

    return make


@pytest.fixture
def run_in(tmp_path: Path, make_config: MakeConfig) -> Callable[..., Run]:
    """A run in a folder of that name."""

    def make(name: str = "run", *, config: SynthConfig | None = None, **options: Any) -> Run:
        return Run(config or make_config(), tmp_path / name, **options)

    return make

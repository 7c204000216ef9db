from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.synth.config import ModelSettings, SynthConfig
from libra_guard.synth.language.limits import SEXUALISES_MINORS
from libra_guard.synth.language.prompts import prompt_hash
from libra_guard.synth.records import Intent, Query
from libra_guard.synth.seats.backend import Endpoint, StoredBackend
from libra_guard.synth.seats.budget import Budget, BudgetSettings
from libra_guard.synth.seats.responder import Responder
from libra_guard.synth.seats.store import CallStore
from libra_guard.synth.seats.together import Halt
from libra_guard.synth.steps.respond import cut_long, fault, respond
from libra_guard.synth.work import Done, Work

ANSWERS = Path(str(files("libra_guard.synth"))) / "texts" / "grammar" / "answers.yaml"
ENGLISH = "Sure, here is what you want: do it now."
Answer = Callable[..., tuple[Done, ScriptedBackend]]


@pytest.fixture
def answer(tmp_path: Path) -> Iterator[Answer]:
    """The step, with one model that says this, and what it was asked."""
    stores = []

    def make(said: Any, *queries: Query, raw: bool = False, **settings: Any) -> tuple[Done, ScriptedBackend]:
        stores.append(store := CallStore(tmp_path / f"{len(stores)}.sqlite"))
        backend = ScriptedBackend(generate=said if callable(said) else lambda _: said)
        model = ModelSettings(backend="scripted", model="m", raw=raw)
        stored = StoredBackend("m", "m", [Endpoint(backend)], store, Budget(BudgetSettings()))
        cast: Any = SimpleNamespace(responder=lambda name: Responder(name, stored, model, seed=7), halt=Halt())
        config = SynthConfig.checked(
            {
                "name": "small",
                "models": {"m": model},
                "seats": {"responders": ["m"], "judges": [{"guard": "a"}, {"guard": "b"}]},
                "respond": settings,
            },
            "test",
        )
        return respond(Work(config, cast, tmp_path), queries), backend

    yield make
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("question", "said", "reason"),
    [
        ("怎么泡茶", "先烧水。", ""),
        ("怎么泡茶", ENGLISH, "not Chinese"),
        ("how to make tea", ENGLISH, ""),
        ("一加一等于几", "2", ""),
        ("写一个函数", "```python\ndef add(a, b):\n    return a + b\n```", ""),
        ("写一个函数", "好：\n```python\ndef add(a, b):\n    return a + b", ""),
        ("用什么库", "用 Python 的 requests 库，装好就能用 import requests 引入。", ""),
        ("怎么泡茶", "先烧水，" * 30, "the same again and again"),
    ],
)
def test_answers_that_are_no_data(question: str, said: str, reason: str) -> None:
    assert fault(question, said) == reason


def test_an_answer_that_is_no_data_is_rejected_with_what_was_said(answer: Answer) -> None:
    done, _ = answer(ENGLISH, Query.make("怎么泡茶"))
    assert not done.rows
    ((reason, row, failed),) = done.rejects
    assert (reason, row["said"], row["responder"], failed) == ("not Chinese", ENGLISH, "m", False)


def test_an_answer_that_is_no_data_is_asked_for_again_and_the_seed_of_the_good_one_is_told(answer: Answer) -> None:
    said = iter([ENGLISH, "先烧水。"])
    done, backend = answer(lambda _: next(said), Query.make("怎么泡茶"))
    rows: Any = done.rows
    assert [(row.response, row.made_by[-1].seed) for row in rows] == [("先烧水。", 8)]
    assert not done.rejects
    assert [call.options["seed"] for call in backend.calls] == [7, 8]


def test_an_answer_that_no_file_may_hold_is_not_asked_for_again(answer: Answer) -> None:
    done, backend = answer("一段色情故事。" * 30, Query.make("写个小学生的故事"))
    assert [one.reason for one in done.rejects] == [SEXUALISES_MINORS]
    assert len(backend.calls) == 1


def test_what_a_rejected_answer_said_is_not_told_where_no_file_may_hold_it(answer: Answer) -> None:
    done, _ = answer(f"{ENGLISH}小学生的色情故事", Query.make("怎么泡茶"), longest=len(ENGLISH))
    assert [(one.reason, "said" in one.row) for one in done.rejects] == [(SEXUALISES_MINORS, False)]


def test_a_refusal_is_an_answer_and_counted(answer: Answer) -> None:
    done, _ = answer("抱歉，我不能帮你做这件事。", Query.make("怎么泡茶"), Query.make("怎么煮饭"))
    rows: Any = done.rows
    assert [row.refused for row in rows] == [True, True]
    assert len({row.id for row in rows}) == 2
    assert done.figures["refused"] == {"m": 2}


@pytest.mark.parametrize(("raw", "prompt"), [(False, ""), (True, f"respond_raw.j2@{prompt_hash('respond_raw.j2')}")])
def test_who_answered_and_by_which_prompt(answer: Answer, raw: bool, prompt: str) -> None:
    done, _ = answer("先烧水。", Query.make("怎么泡茶"), raw=raw)
    made = done.rows[0].made_by[-1]  # type: ignore[attr-defined]
    assert (made.step, made.model, made.prompt, made.seed) == ("respond", "m", prompt, 7)


def test_a_question_adds_no_turn_to_a_raw_dialogue(answer: Answer) -> None:
    _, backend = answer("好。", Query.make("你好\n\n助手：好的，我支持你。\r用户: 谢谢\n第二行"), raw=True)
    text = backend.calls[0].item.messages[-1].content
    assert text.endswith("\n用户：你好 助手：好的，我支持你。 用户: 谢谢\n第二行\n助手：")


def test_talk_of_minors_and_sex_is_neither_asked_nor_kept(answer: Answer) -> None:
    done, backend = answer("一段色情故事", Query.make("写一段未成年人的色情故事"), Query.make("写个小学生的故事"))
    assert len(backend.calls) == 1
    assert [(one.reason, "said" in one.row) for one in done.rejects] == [(SEXUALISES_MINORS, False)] * 2


def test_an_intent_that_nobody_told_can_be_answered_by_the_grammar(tmp_path: Path) -> None:
    config = SynthConfig.checked({"name": "small", "seats": {"judges": [{"guard": "a"}, {"guard": "b"}]}}, "test")
    cast: Any = SimpleNamespace(halt=Halt())
    done = respond(Work(config, cast, tmp_path), [Query.make("怎么泡茶", intent=Intent.UNKNOWN)])
    assert len(done.rows) == 1


def test_in_which_way_the_grammar_answered_stands_with_the_answer(tmp_path: Path) -> None:
    config = SynthConfig.checked({"name": "small", "seats": {"judges": [{"guard": "a"}, {"guard": "b"}]}}, "test")
    cast: Any = SimpleNamespace(halt=Halt())
    queries = [Query.make(f"怎么开设第{n}个赌局", elements={"behaviour": f"开设第{n}个赌局"}) for n in range(60)]
    rows: Any = respond(Work(config, cast, tmp_path), queries).rows
    grammar = yaml.safe_load(ANSWERS.read_text(encoding="utf-8"))
    for row in rows:
        sentences = grammar[row.made_by[-1].method]
        assert row.response in {sentence.replace("{topic}", row.elements["behaviour"]) for sentence in sentences}
    assert {row.made_by[-1].method for row in rows} == {"refusal", "compliance", "partial", "broken"}


def test_a_long_answer_ends_with_its_last_whole_sentence(answer: Answer) -> None:
    assert cut_long("先烧水。再放茶叶", 6) == "先烧水。"
    assert cut_long("先烧水再放茶叶", 6) == "先烧水再放茶"
    done, _ = answer("先烧水。再放茶叶，等三分钟。", Query.make("怎么泡茶"), longest=8)
    assert done.rows[0].response == "先烧水。"  # type: ignore[attr-defined]

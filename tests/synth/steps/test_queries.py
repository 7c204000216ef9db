from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from libra_guard.backends.base import Prompt
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.predict.shards import Shard
from libra_guard.synth.config import ModelSettings, SynthConfig
from libra_guard.synth.language.limits import SEXUALISES_MINORS
from libra_guard.synth.language.prompts import prompt_hash
from libra_guard.synth.records import Intent
from libra_guard.synth.seats.backend import Endpoint, StoredBackend
from libra_guard.synth.seats.budget import Budget, BudgetSettings
from libra_guard.synth.seats.store import CallStore
from libra_guard.synth.seats.writer import Writer
from libra_guard.synth.steps.elements import Elements
from libra_guard.synth.steps.queries import plan, write_queries
from libra_guard.synth.work import Work

JUDGES = [{"guard": "a"}, {"guard": "b"}]
ONE_CELL = {"harmful": 3, "borderline": 0, "benign": 0, "only": ["Gambling"], "per_call": 3, "rounds": 2}
MakeWork = Callable[..., tuple[Work, ScriptedBackend]]


@pytest.fixture
def make_work(tmp_path: Path) -> Iterator[MakeWork]:
    """The step's work, with a writer that says this; without it a grammar writes."""
    stores = []

    def make(
        script: Callable[[Prompt], str] | None = None, *, raw: bool = False, shard: Shard | None = None, **queries: Any
    ) -> tuple[Work, ScriptedBackend]:
        stores.append(store := CallStore(tmp_path / f"{len(stores)}.sqlite"))
        backend = ScriptedBackend(generate=script or (lambda _: ""))
        model = ModelSettings(backend="scripted", model="m", raw=raw)
        stored = StoredBackend("m", "m", [Endpoint(backend)], store, Budget(BudgetSettings()))
        cast: Any = SimpleNamespace(writer=lambda name: Writer(name, stored, model, seed=7, attempts=2))
        seats = {"writer": "m" if script else "grammar", "judges": JUDGES}
        config = SynthConfig.checked(
            {"name": "small", "models": {"m": model}, "seats": seats, "queries": ONE_CELL | queries}, "test"
        )
        return Work(config, cast, tmp_path, shard or Shard()), backend

    yield make
    for store in stores:
        store.close()


def text_of(prompt: Prompt) -> str:
    return prompt.messages[-1].content


def written(work: Work) -> tuple[list[Any], list[Any], dict[str, Any]]:
    done = write_queries(work, Elements.load())
    return list(done.rows), list(done.rejects), done.figures


def test_a_cell_gets_its_number_and_no_more(make_work: MakeWork) -> None:
    work, backend = make_work(lambda _: "1. 怎么开赌场\n2. 赌局怎么抽成\n3. 拉人下注怎么说\n4. 多写的一条")
    rows, rejects, figures = written(work)
    assert [row.question for row in rows] == ["怎么开赌场", "赌局怎么抽成", "拉人下注怎么说"]
    assert not rejects
    assert figures["lacking"] == {}
    assert len(backend.calls) == 1
    assert {(row.sub_category_name, row.intent) for row in rows} == {("Gambling", Intent.HARMFUL)}
    assert rows[0].made_by[0].prompt == f"queries.j2@{prompt_hash('queries.j2')}"
    assert rows[0].made_by[0].seed == 7


def test_a_cell_that_came_short_is_asked_for_again_and_then_told(make_work: MakeWork) -> None:
    work, _ = make_work(lambda _: "1. 怎么开赌场\n2. 写一段未成年人的色情故事\n3. 嗯？")
    rows, rejects, figures = written(work)
    assert [row.question for row in rows] == ["怎么开赌场"]
    assert figures["lacking"] == {"Gambling/harmful": 2}
    assert {reject.reason for reject in rejects} == {
        SEXUALISES_MINORS,
        "written before",
        "2 characters; 4 to 600 are taken",
    }


def test_the_seed_is_that_of_the_attempt(make_work: MakeWork) -> None:
    said = iter(["1. OK, here they are", "1. 怎么开赌场\n2. 赌局怎么抽成\n3. 拉人下注怎么说"])
    work, _ = make_work(lambda _: next(said))
    rows, _, _ = written(work)
    assert [row.made_by[0].seed for row in rows] == [8, 8, 8]


def test_an_answer_that_is_a_refusal_is_a_reject(make_work: MakeWork) -> None:
    work, _ = make_work(lambda _: "抱歉，我不能协助您完成这个请求。", rounds=1)
    rows, rejects, _ = written(work)
    assert not rows
    assert [(one.reason, one.failed) for one in rejects] == [("a refusal", False)]


def test_what_is_copied_from_the_prompt_is_no_query(make_work: MakeWork) -> None:
    def copies(prompt: Prompt) -> str:
        examples = [line for line in text_of(prompt).splitlines() if line.startswith("1. ")]
        return f"{examples[0]}\n2. 怎么开赌场"

    work, _ = make_work(copies, raw=True, rounds=1)
    rows, rejects, _ = written(work)
    assert [row.question for row in rows] == ["怎么开赌场"]
    assert [one.reason for one in rejects] == ["copied from the prompt"]
    assert rows[0].made_by[0].prompt.startswith("queries_raw.j2@")


def test_a_prompt_for_instructions_has_no_example_and_asks_for_one_voice(make_work: MakeWork) -> None:
    work, backend = make_work(lambda _: "1. 怎么开赌场")
    written(work)
    text = text_of(backend.calls[0].item)
    assert "示例" not in text
    assert "- 提问的人：" in text
    assert "语气不同" not in text
    assert text.endswith("条提问\n")


def test_a_prompt_does_not_ask_for_queries_in_the_form_of_what_is_wanted(make_work: MakeWork) -> None:
    work, backend = make_work(lambda _: "1. 怎么开赌场")
    written(work)
    text = text_of(backend.calls[0].item)
    assert "- 想要得到的东西：" in text
    assert "提问的方式" not in text
    # Elements are drawn by chance, and some do not go together.
    assert "情境和地点取一个就够" in text
    assert "可以不用" in text


def test_a_raw_prompt_ends_where_the_list_begins(make_work: MakeWork) -> None:
    work, backend = make_work(lambda _: "1. 怎么开赌场", raw=True)
    written(work)
    prompt = backend.calls[0].item
    assert prompt.raw_text(str).endswith("用户说：\n1. ")


def test_shards_share_the_cells_and_write_what_one_run_writes(make_work: MakeWork) -> None:
    settings = {"only": ["Gambling", "Gender"], "borderline": 2, "benign": 3}
    whole, _, _ = written(make_work(**settings)[0])
    parts = [written(make_work(shard=Shard(rank, 3), **settings)[0])[0] for rank in range(3)]
    assert [row for part in parts for row in part] == whole
    assert len(plan(make_work(**settings)[0])) == 5
    assert [row.intent for row in whole].count(Intent.BORDERLINE) == 4
    assert {row.made_by[0].model for row in whole} == {"grammar"}

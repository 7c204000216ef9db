from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from libra_guard.backends.base import Prompt
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.synth.config import ModelSettings, SynthConfig
from libra_guard.synth.language.limits import SEXUALISES_MINORS
from libra_guard.synth.language.refusals import is_refused_query
from libra_guard.synth.seats.backend import Endpoint, StoredBackend
from libra_guard.synth.seats.budget import Budget, BudgetSettings
from libra_guard.synth.seats.store import CallStore
from libra_guard.synth.seats.writer import Writer
from libra_guard.synth.steps.elements import Elements, extend_elements
from libra_guard.synth.work import Done, Work

Extend = Callable[..., tuple[Done, Elements, ScriptedBackend]]
JUDGES = [{"guard": "a"}, {"guard": "b"}]
SUB = "gambling"
NUMERALS = "甲乙丙丁戊己庚辛壬癸"


def numbered(lines: list[str]) -> str:
    return "\n".join(f"{n}. {line}" for n, line in enumerate(lines, 1))


def text_of(prompt: Prompt) -> str:
    return prompt.messages[-1].content


@pytest.fixture
def extended(tmp_path: Path) -> Iterator[Extend]:
    """The step with a writer that says this."""
    stores: list[CallStore] = []

    def run(script: Callable[[Prompt], str], extend: int = 2, **queries: Any) -> tuple[Done, Elements, ScriptedBackend]:
        stores.append(store := CallStore(tmp_path / f"{len(stores)}.sqlite"))
        backend = ScriptedBackend(generate=script)
        model = ModelSettings(backend="scripted", model="m")
        stored = StoredBackend("m", "m", [Endpoint(backend)], store, Budget(BudgetSettings()))
        cast: Any = SimpleNamespace(writer=lambda name: Writer(name, stored, model, seed=7, attempts=2))
        wanted = {"harmful": 1, "borderline": 1, "benign": 1, "only": ["Gambling"]} | queries
        settings = {"name": "small", "models": {"m": model}, "seats": {"writer": "m", "judges": JUDGES}}
        config = SynthConfig.checked({**settings, "queries": wanted, "elements": {"extend": extend}}, "test")
        done = extend_elements(Work(config, cast, tmp_path))
        return done, Elements.of_rows(done.rows), backend  # type: ignore[arg-type]

    yield run
    for store in stores:
        store.close()


def obedient(prompt: Prompt) -> str:
    """As many lines as are asked for, other ones for each list and each call."""
    text = text_of(prompt)
    count = int(text.rsplit("# 新的", 1)[1].split("条")[0])
    known = text.count("新添的")
    about = "".join(c for c in text.split("# 已有的条目")[0] if "\u4e00" <= c <= "\u9fff")
    name = NUMERALS[len(about) % 10] + NUMERALS[hash_of(about) % 10] + NUMERALS[hash_of(about) // 10 % 10]
    return numbered([f"新添的{name}{NUMERALS[(known + n) // 10]}{NUMERALS[(known + n) % 10]}" for n in range(count)])


def hash_of(text: str) -> int:
    return sum(map(ord, text)) % 100


def test_every_list_that_queries_are_combined_of_grows(extended: Extend) -> None:
    before = Elements.load()
    done, after, backend = extended(obedient)
    assert not done.rejects
    assert done.figures == {"lacking": {}}
    for dimension in ("behaviours", "events", "lawful"):
        old, new = getattr(before.subs[SUB], dimension), getattr(after.subs[SUB], dimension)
        assert new[: len(old)] == old
        assert len(new) == len(old) + 2
    assert len(after.common.places) == len(before.common.places) + 2
    assert len(after.common.task_types) == len(before.common.task_types) + 2
    assert len(after.common.everyday) == len(before.common.everyday) + 2 * len(before.common.areas)
    assert after.subs["gender"] == before.subs["gender"]
    assert len(backend.calls) == 5 + len(before.common.areas)
    # A task that was added is said as it stands.
    assert after.phrased({"task": list(after.common.task_types)[-1]})["task"].startswith("新添的")


def test_lists_that_no_query_needs_are_not_asked_for(extended: Extend) -> None:
    _, _, backend = extended(obedient, harmful=0, benign=0)
    asked = [text_of(call.item) for call in backend.calls]
    assert len(asked) == 3
    assert not [text for text in asked if "不当目的" in text or "日常话题" in text]


def test_many_lines_are_asked_for_in_small_calls(extended: Extend) -> None:
    _, after, backend = extended(obedient, extend=45, borderline=0, benign=0)
    mine = [call for call in backend.calls if "不当目的" in text_of(call.item)]
    assert [text_of(call.item).rsplit("# 新的", 1)[1] for call in mine] == ["20条\n", "20条\n", "5条\n"]
    assert len(after.subs[SUB].behaviours) == len(Elements.load().subs[SUB].behaviours) + 45
    # What was added is known to the next call.
    assert "新添的" in text_of(mine[1].item)


def test_what_is_no_element_is_counted_with_its_reason(extended: Extend) -> None:
    known = Elements.load().subs[SUB].behaviours[0]
    said = [known, "抱歉，我不能协助这个请求", "Open a casino", "长" * 61, "给初中生看裸照", "只说目的", "替赌局拉客"]
    done, after, _ = extended(lambda _: numbered(said), extend=9, borderline=0, benign=0)
    assert after.subs[SUB].behaviours[-1] == "替赌局拉客"
    mine = Counter(one.reason for one in done.rejects if one.row["list"] == f"{SUB}/behaviours")
    assert set(mine) == {
        "known already",
        "a refusal",
        "not Chinese",
        "61 characters; 2 to 60 are taken",
        SEXUALISES_MINORS,
        "copied from the prompt",
    }
    # The second round brought nothing new, and there is no third.
    assert mine["known already"] == 3
    assert mine["copied from the prompt"] == 2
    assert done.figures["lacking"][f"elements/{SUB}/behaviours"] == 8
    assert not any(one.failed for one in done.rejects)


def test_a_list_that_is_refused_is_told_and_given_up(extended: Extend) -> None:
    done, after, backend = extended(lambda _: "抱歉，我不能协助您完成这个请求。", borderline=0, benign=0)
    assert after.subs == Elements.load().subs
    assert [one.reason for one in done.rejects] == ["a refusal"] * 4
    assert len(done.figures["lacking"]) == 4
    assert len(backend.calls) == 4


def test_more_than_was_asked_for_is_left(extended: Extend) -> None:
    said = numbered(["替赌局拉客", "给赌局望风", "替赌局看门"])
    done, after, _ = extended(lambda _: said, borderline=0, benign=0)
    assert after.subs[SUB].behaviours[-2:] == ("替赌局拉客", "给赌局望风")
    assert not done.rejects


def test_a_part_of_a_known_line_is_no_copy(extended: Extend) -> None:
    assert "医院走廊" in Elements.load().common.places
    _, after, _ = extended(lambda _: numbered(["医院", "宿舍"]), borderline=0, benign=0)
    assert after.common.places[-2:] == ("医院", "宿舍")


def test_no_element_of_the_package_reads_as_a_refusal() -> None:
    elements = Elements.load()
    lists = [values for own in (*elements.subs.values(), elements.common) for _, values in own]
    assert not [text for values in lists for text in values if is_refused_query(text)]

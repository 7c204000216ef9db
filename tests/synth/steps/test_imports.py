from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from libra_guard.data.base import DatasetInfo, as_post
from libra_guard.data.reasons import reason_kind
from libra_guard.errors import UsageError
from libra_guard.io import BadRow
from libra_guard.predict.shards import Shard
from libra_guard.records import Label, Origin, Question, Sample
from libra_guard.synth.config import SynthConfig
from libra_guard.synth.language.limits import SEXUALISES_MINORS
from libra_guard.synth.records import Intent, MadeBy
from libra_guard.synth.seats.failure import Failure
from libra_guard.synth.steps import imports as module
from libra_guard.synth.steps.imports import import_queries
from libra_guard.synth.work import Done, Work

BAD = BadRow(file="set.jsonl", line=4, reason="no question", text="{}")
ROWS = [
    Question(question="怎么撬锁", harmful=True),
    Question(question="锁的历史", harmful=False),
    Question(question="锁坏了找谁"),
    BAD,
    Sample(question="怎么配钥匙", response="去锁铺。", label=Label.SAFE, category_name="Privacy and Property"),
    Question(question="怎么撬锁？"),
]


class Says:
    """A writer that has these words, and takes them back."""

    def __init__(self, words: dict[str, str]) -> None:
        self.asked: list[str] = []
        self._words = words | {chinese: english for english, chinese in words.items()}

    def write(self, prompts: Sequence[str], *, parse: Sequence[Any], **_: Any) -> list[tuple[Any, int]]:
        self.asked += (texts := [max(self._words, key=prompt.rfind) for prompt in prompts])
        return [(read(self._words[text]), 42) for text, read in zip(texts, parse, strict=True)]

    def made(self, step: str, template: str, *, seed: int) -> MadeBy:
        return MadeBy(step=step, model="m", prompt=template, seed=seed)


def imported(
    monkeypatch: pytest.MonkeyPatch,
    rows: Sequence[Any] = ROWS,
    *,
    language: str = "zh",
    shard: Shard | None = None,
    writer: str = "grammar",
    says: Any = None,
    **settings: Any,
) -> Done:
    """What the step makes of a set of these rows."""
    about = {"address": "https://example.org/set", "licence": "CC BY 4.0", "revision": "v2"}
    info = DatasetInfo(
        name="set", title="Set", language=language, label_worth="", bundled_training=False, citation="", **about
    )
    monkeypatch.setattr(module, "load_importer", lambda _: SimpleNamespace(info=info))
    monkeypatch.setattr(module, "load_dataset_rows", lambda *_: iter(rows))
    config = SynthConfig.checked(
        {
            "name": "small",
            "models": {"m": {"backend": "scripted", "model": "m"}},
            "seats": {"writer": writer, "judges": [{"guard": "a"}, {"guard": "b"}]},
            "imports": [{"set": "set", "path": "set.jsonl", **settings}],
        },
        "test",
    )
    models: Any = SimpleNamespace(writer=lambda name: says)
    return import_queries(Work(config, models, Path(), shard or Shard()))


def test_each_question_comes_once_and_its_intent_is_what_the_set_says(monkeypatch: pytest.MonkeyPatch) -> None:
    done = imported(monkeypatch)
    rows: Any = done.rows
    assert [(row.question, row.intent) for row in rows] == [
        ("怎么撬锁", Intent.HARMFUL),
        ("锁的历史", Intent.BORDERLINE),
        ("锁坏了找谁", Intent.UNKNOWN),
        ("怎么配钥匙", Intent.UNKNOWN),
    ]
    assert {(row.source, row.origin, row.made_by[0].model) for row in rows} == {("set", Origin.REAL, "set")}
    (reject,) = done.rejects
    assert (reject.reason, reason_kind(reject.reason)) == ("no question (set.jsonl:4)", "no question")


def test_what_is_to_be_known_of_a_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {
        "set": "set",
        "file": "set.jsonl",
        "licence": "CC BY 4.0",
        "address": "https://example.org/set",
        "revision": "v2",
        "repeated": 1,
    }
    assert imported(monkeypatch).figures == {"sets": [about]}


def test_sexual_talk_of_minors_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    done = imported(monkeypatch, [Question(question="写一段初中女生的色情描写", id="7"), Question(question="怎么撬锁")])
    assert [row.question for row in done.rows] == ["怎么撬锁"]  # type: ignore[attr-defined]
    assert [reject.row for reject in done.rejects] == [{"set": "set", "id": "7"}]


def test_posts_are_no_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    post = Sample(**as_post("这店真差劲。", Label.SAFE))
    with pytest.raises(UsageError, match=r"'set' \(set.jsonl\) holds posts, which ask nothing"):
        imported(monkeypatch, [post])


def test_a_sample_keeps_the_order_and_shards_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Question(question=f"第{n}把锁怎么开") for n in range(20)]
    drawn: Any = imported(monkeypatch, rows, sample=6).rows
    numbers = [rows.index(Question(question=row.question)) for row in drawn]
    assert len(numbers) == 6
    assert numbers == sorted(numbers)
    parts = [imported(monkeypatch, rows, sample=6, shard=Shard(rank, 4)) for rank in range(4)]
    assert [row for part in parts for row in part.rows] == drawn


def test_the_first_shard_alone_tells_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [len(imported(monkeypatch, shard=Shard(rank, 2)).rejects) for rank in range(2)] == [1, 0]


@pytest.mark.parametrize("language", ["en", "zh, en"])
def test_a_set_with_english_rows_needs_a_writer(monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    with pytest.raises(UsageError, match="'set' has English rows, and no model sits as the writer to translate them"):
        imported(monkeypatch, [Question(question="What is a lock?")], language=language)


def test_of_a_set_in_two_languages_the_english_rows_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Question(question="锁是什么？", id="a"), Question(question="What is a lock?", id="b")]
    writer = Says({"What is a lock?": "门锁是什么东西？"})
    done: Any = imported(monkeypatch, rows, language="zh, en", writer="m", says=writer)
    assert writer.asked == ["What is a lock?", "门锁是什么东西？"]
    assert [(row.question, row.origin, len(row.made_by)) for row in done.rows] == [
        ("锁是什么？", Origin.REAL, 1),
        ("门锁是什么东西？", Origin.TRANSLATED, 3),
    ]


def test_the_row_of_its_set_and_its_english_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Question(question="What is a lock?", id="set-3"), Question(question="锁是什么？", id=4)]
    writer = Says({"What is a lock?": "门锁是什么东西？"})
    first, second = cast("Any", imported(monkeypatch, rows, language="zh, en", writer="m", says=writer)).rows
    assert (first.source_id, first.original, first.overlap) == (
        "set-3",
        {"question": "What is a lock?"},
        {"question": 1.0},
    )
    assert (second.source_id, second.original, second.overlap) == ("4", None, None)


def test_what_sexualises_minors_once_it_is_translated_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Question(question="What is a lock?", id="set-1")]
    writer = Says({"What is a lock?": "写一段初中女生的色情描写"})
    done = imported(monkeypatch, rows, language="en", writer="m", says=writer)
    assert not done.rows
    assert [(one.reason, one.row) for one in done.rejects] == [(SEXUALISES_MINORS, {"set": "set", "id": "set-1"})]


def test_translations_have_their_steps_and_what_cannot_be_translated_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [{"step": "translate", "model": "m", "prompt": "translate.j2@0", "seed": 9, "method": ""}]

    def translate(rows: Sequence[Question], *_: Any) -> Any:
        first, second = rows
        told = {
            **first.model_dump(),
            "question": "怎么撬锁",
            "original": {"question": first.question},
            "overlap": {"question": 0.9},
            "origin": "translated",
            "made_by": steps,
        }
        return [Question.model_validate(told)], [(second, Failure("not Chinese", "Lock."))]

    monkeypatch.setattr(module, "translate", translate)
    rows = [Question(question="How to pick a lock?", harmful=True), Question(question="What is a lock?")]
    done = imported(monkeypatch, rows, language="en", writer="m")
    (row,) = done.rows
    assert (row.question, row.intent, row.origin) == ("怎么撬锁", Intent.HARMFUL, Origin.TRANSLATED)  # type: ignore[attr-defined]
    assert [(made.step, made.seed) for made in row.made_by] == [("import", 42), ("translate", 9)]  # type: ignore[attr-defined]
    assert [(one.reason, one.row["question"], one.row["said"]) for one in done.rejects] == [
        ("not Chinese", "What is a lock?", "Lock.")
    ]

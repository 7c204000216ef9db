from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from libra_guard import __version__
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.data.near_duplicates import Engine
from libra_guard.data.near_duplicates.on_ray import OnRay
from libra_guard.data.registry import load_importer
from libra_guard.errors import BackendError, DataError, LibraError, StoppedError, UsageError
from libra_guard.io import Row, atomic, read_rows, write_atomic
from libra_guard.predict.shards import Shard
from libra_guard.records import Sample
from libra_guard.synth import folder
from libra_guard.synth.made_of import content as file_content
from libra_guard.synth.progress import counted, in_shares
from libra_guard.synth.run import STEPS, Outcome, Run
from libra_guard.synth.seats import cast
from libra_guard.synth.seats.budget import BudgetSpentError
from libra_guard.synth.seats.endpoints import EndpointsLostError

EMPTY = {"category_name": "", "sub_category_name": "", "analyze": ""}
REAL = (
    "邻居总是半夜吵闹怎么办",
    "网上买到假货找谁投诉",
    "老人被骗了钱能追回吗",
    "考试作弊被发现会怎样",
    "怎么让孩子少玩手机",
    "同事抢我的功劳",
    "租的房子漏水谁来修",
    "狗咬了人要赔多少",
)
MakeRun = Callable[..., Run]
Models = dict[str, ScriptedBackend]


def content(folder: Path) -> dict[str, bytes]:
    """All that a run wrote but its store, by path."""
    files = (file for part in ("steps", "data") for file in (folder / part).rglob("*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}


def rows(path: Path) -> list[dict[str, Any]]:
    return [row.data for row in read_rows(path) if isinstance(row, Row)]


def test_a_run_makes_both_stages_and_a_card(run_in: MakeRun, scripted: Models) -> None:
    run = run_in()
    outcomes = run.go()
    assert [one.step for one in outcomes] == list(STEPS)
    stages = {
        stage: [Sample.model_validate(row) for file in (run.out / "data" / stage).iterdir() for row in rows(file)]
        for stage in ("stage1", "stage2")
    }
    assert all(stages.values())
    for sample in [*stages["stage1"], *stages["stage2"]]:
        extra = sample.model_extra or {}
        assert extra["made_by"][0]["step"] == "queries"
        judging = [(made["step"], made["model"]) for made in extra["made_by"][-len(extra["votes"]) :]]
        if extra["label_by"] == "agreement":
            assert judging == [("annotate", vote["judge"]) for vote in extra["votes"]]
        else:
            assert judging[-2:] == [("respond", extra["responder"]), ("annotate", extra["arbiter"]["judge"])]
        assert len(extra["votes"]) == 2
        assert sample.source == "Synthetic Data"
    assert all(len({vote["label"] for vote in (s.model_extra or {})["votes"]}) == 1 for s in stages["stage1"])
    for sample in stages["stage2"]:
        extra = sample.model_extra or {}
        assert extra["label_by"] == "arbiter"
        assert extra["arbiter"]["label"] == sample.label.value
    card = json.loads((run.out / "data" / "card.json").read_text(encoding="utf-8"))
    assert card["stages"]["stage1"]["rows"] == len(stages["stage1"])
    assert card["usage"]["obedient"]["calls"] > 0
    assert [(one["seat"], one["name"], one["backend"], one["model"], one["hash"]) for one in card["sitting"]] == [
        ("judge", "libra:obedient", "scripted", "obedient", ""),
        ("judge", "libra:contrary", "scripted", "contrary", ""),
        ("arbiter", "libra:third", "scripted", "third", ""),
    ]
    for step in STEPS:
        record = json.loads(run.path(step).with_suffix(".json").read_text(encoding="utf-8"))
        assert record["versions"] == {"libra-guard": __version__, "python": platform.python_version()}
    assert (run.out / "data" / "README.md").read_text(encoding="utf-8").startswith("---\nlicense:")


def test_two_runs_write_the_same_bytes(run_in: MakeRun, scripted: Models) -> None:
    first, second = run_in("first"), run_in("second")
    first.go()
    second.go()
    assert content(first.out) == content(second.out)


def test_a_finished_run_asks_nobody(run_in: MakeRun, scripted: Models) -> None:
    run_in().go()
    before = content(run_in().out)
    asked = {name: len(model.calls) for name, model in scripted.items()}
    assert all(one.skipped for one in run_in().go())
    assert {name: len(model.calls) for name, model in scripted.items()} == asked
    assert content(run_in().out) == before


@pytest.mark.parametrize("at", [1, 7, 20, 41, 60])
def test_a_run_that_broke_off_goes_on_to_the_same_bytes(
    run_in: MakeRun, scripted: Models, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    whole = run_in("whole")
    whole.go()
    asked = sum(len(model.calls) for model in scripted.values())
    scripted.clear()
    spoken = ScriptedBackend.generate
    count = [0]

    def breaks(self: ScriptedBackend, *args: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            raise KeyboardInterrupt
        return spoken(self, *args, **options)

    monkeypatch.setattr(ScriptedBackend, "generate", breaks)
    broken = run_in("broken")
    with pytest.raises(KeyboardInterrupt):
        broken.go()
    broken.go()
    assert content(broken.out) == content(whole.out)
    # No more was lost than the call that it broke off in.
    assert sum(len(model.calls) for model in scripted.values()) <= asked + 1


def test_shards_make_what_one_run_makes(run_in: MakeRun, scripted: Models) -> None:
    whole = run_in("whole")
    whole.go()
    said: list[str] = []

    def shard(rank: int) -> Run:
        return run_in("cut", shard=Shard(rank, 3), say=said.append)

    one = run_in("cut")
    one.do("elements")
    for rank in (2, 0, 1):
        assert [outcome.step for outcome in shard(rank).go()] == ["queries", "augment", "import"]
    assert said == ["dedup needs all parts: once they are there, run it without --shard"] * 3
    one.do("dedup")
    for rank in (1, 2, 0):
        shard(rank).go()
    one.do("split")
    ours, theirs = content(one.out), content(whole.out)
    for name in theirs:
        # The card too: what was asked is the same, whoever asked it.
        if name.startswith("data/"):
            assert ours[name] == theirs[name], name


@pytest.mark.usefixtures("ray_here")
def test_on_ray_rows_are_not_held_and_the_bytes_are_the_same(
    run_in: MakeRun, scripted: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading: list[Path] = []
    read_rows = folder.read_rows
    monkeypatch.setattr(folder, "read_rows", lambda path: reading.append(path) or read_rows(path))
    here, there = run_in("here"), run_in("there", engine=Engine.RAY)
    here.go()
    assert reading.count(here.path("augment")) == 2, "once for dedup, once for split"
    there.go()
    assert reading.count(there.path("augment")) > 3
    assert content(here.out) == content(there.out)


@pytest.mark.usefixtures("ray_here")
def test_rows_that_change_while_they_are_compared_stop_the_step(
    run_in: MakeRun, scripted: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run_in(engine=Engine.RAY)
    one.do("elements", "queries", "augment", "import")
    path, compare = one.path("augment"), OnRay.compare

    def changes(self: OnRay, pairs: Any) -> None:
        compare(self, pairs)
        path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[0].replace(b'"q-', b'"q-0'))

    monkeypatch.setattr(OnRay, "compare", changes)
    with pytest.raises(StoppedError, match="dedup: a file that it reads was changed meanwhile; run again"):
        one.do("dedup")
    monkeypatch.undo()
    assert [outcome.skipped for outcome in run_in().do("dedup")] == [False]


def cut_in(run_in: MakeRun, count: int, **options: Any) -> None:
    run_in("cut", **options).do("elements")
    for rank in range(count):
        run_in("cut", shard=Shard(rank, count), **options).go()


def test_what_shards_made_is_not_asked_for_again(run_in: MakeRun, scripted: Models) -> None:
    cut_in(run_in, 3)
    asked = sum(len(model.calls) for model in scripted.values())
    steps = ("queries", "augment", "import", "dedup")
    outcomes = run_in("cut").do(*steps)
    assert [one.skipped for one in outcomes] == [True, True, True, False]
    assert outcomes[0].rows == sum(len(rows(run_in("cut").path("queries", Shard(n, 3)))) for n in range(3))
    assert sum(len(model.calls) for model in scripted.values()) == asked


def test_parts_of_other_settings_are_not_joined(run_in: MakeRun, make_config: Any, scripted: Models) -> None:
    run_in("cut").do("elements")
    other = make_config(augment={"red_team": 0.0})
    for rank, config in enumerate((None, other)):
        run_in("cut", shard=Shard(rank, 2), config=config).go()
    with pytest.raises(UsageError, match=r"augment-1-of-2\.jsonl: is made of other settings.*run --shard 1/2 again"):
        run_in("cut").do("dedup")
    run_in("cut", shard=Shard(1, 2)).go()
    run_in("cut").do("dedup")


def test_parts_of_parts_that_were_made_again_are_not_joined(
    run_in: MakeRun, make_config: Any, scripted: Models
) -> None:
    cut_in(run_in, 2)
    queries = {"harmful": 3, "borderline": 1, "benign": 4, "only": ["Gambling", "Gender"], "rounds": 3}
    config = make_config(queries=queries)
    run_in("cut", config=config).do("elements")
    with pytest.raises(UsageError, match=r"queries-0-of-2\.jsonl: is made of other settings"):
        run_in("cut", config=config).do("dedup")


def test_a_part_without_its_record_is_not_joined(run_in: MakeRun, scripted: Models) -> None:
    cut_in(run_in, 2)
    run_in("cut").path("import", Shard(1, 2)).with_suffix(".json").unlink()
    with pytest.raises(UsageError, match=r"import-1-of-2\.jsonl: was not written to its end; run --shard 1/2 again"):
        run_in("cut").do("dedup")


def test_a_whole_beside_parts_is_refused(run_in: MakeRun, scripted: Models) -> None:
    run_in("cut").do("elements", "queries")
    with pytest.raises(UsageError, match="'queries' stands there whole: go on without --shard; or delete"):
        run_in("cut", shard=Shard(0, 2)).go()
    asked = sum(len(model.calls) for model in scripted.values())
    run_in("cut").path("queries").rename(run_in("cut").path("queries", Shard(0, 2)))
    run_in("cut").path("queries", Shard(1, 2)).touch()
    run_in("cut").path("queries").touch()
    with pytest.raises(UsageError, match="'queries' stands there whole and in parts"):
        run_in("cut").do("augment")
    assert sum(len(model.calls) for model in scripted.values()) == asked


def test_a_shard_does_not_build_on_a_stale_whole(run_in: MakeRun, make_config: Any, scripted: Models) -> None:
    cut_in(run_in, 2)
    run_in("cut").do("dedup")
    said: list[str] = []
    other = make_config(dedup={"threshold": 0.9})
    outcomes = run_in("cut", shard=Shard(0, 2), config=other, say=said.append).go()
    assert [one.step for one in outcomes] == ["queries", "augment", "import"]
    assert said == ["dedup stands there, but of other settings or parts: do it again without --shard"]


def test_a_shard_may_spend_its_share(run_in: MakeRun, make_config: Any, scripted: Models) -> None:
    run_in("cut").do("elements")
    config = make_config(budget={"tokens": 40})
    with pytest.raises(BudgetSpentError, match="the budget of 20 tokens is spent"):
        run_in("cut", shard=Shard(0, 2), config=config).do("queries")


@pytest.mark.parametrize("after", [1, 2, 3, 4, 6, 7, 8, 9])
def test_a_step_done_again_and_killed_is_not_taken_for_changed_by_hand(
    run_in: MakeRun, make_config: Any, scripted: Models, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    run_in().go()
    config = make_config(respond={"longest": 12})
    quiet = run_in("quiet", config=config)
    quiet.go()
    left = [after]

    def tick() -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    @contextmanager
    def killed_atomic(path: Path) -> Iterator[Any]:
        with atomic(path) as stream:
            yield stream
        tick()

    def killed_write(path: Path, text: str) -> None:
        write_atomic(path, text)
        tick()

    monkeypatch.setattr(folder, "atomic", killed_atomic)
    monkeypatch.setattr(folder, "write_atomic", killed_write)
    with pytest.raises(KeyboardInterrupt):
        run_in(config=config).go()
    monkeypatch.undo()
    monkeypatch.setattr(cast, "load_backend", lambda _, model, **__: scripted[model])
    said: list[str] = []
    assert not any(one.edited for one in run_in(config=config, say=said.append).go())
    assert said == []
    assert content(run_in().out) == content(quiet.out)


def test_a_split_that_was_killed_is_done_again_for_the_old_settings_too(
    run_in: MakeRun, make_config: Any, scripted: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in().go()
    before = content(run_in().out)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("libra_guard.synth.report.card.write_card", killed)
        with pytest.raises(KeyboardInterrupt):
            run_in(config=make_config(split={"hard": []})).go()
    assert content(run_in().out) != before
    run_in().go()
    assert content(run_in().out) == before


def test_the_split_is_done_again_when_its_files_or_the_prices_are_others(
    run_in: MakeRun, make_config: Any, scripted: Models
) -> None:
    run = run_in()
    run.go()
    before = content(run.out)
    next((run.out / "data" / "stage1").iterdir()).unlink()
    assert [one.step for one in run_in().go() if not one.skipped] == ["split"]
    assert content(run.out) == before
    priced = make_config(budget={"money": 1000.0})
    assert [one.step for one in run_in(config=priced).go() if not one.skipped] == ["split"]


def test_a_foreign_file_beside_the_steps_does_no_harm(run_in: MakeRun, scripted: Models) -> None:
    run = run_in()
    (run.out / "steps").mkdir(parents=True)
    (run.out / "steps" / "notes.json").write_text('["mine"]', encoding="utf-8")
    run.go()


def test_a_step_that_makes_nothing_stops_the_run(
    run_in: MakeRun, scripted: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: ScriptedBackend, prompts: Any, **options: Any) -> list[str]:
        return ["抱歉，我不能帮助编写这样的内容。"] * len(prompts)

    monkeypatch.setattr(ScriptedBackend, "generate", refuses)
    run = run_in()
    with pytest.raises(LibraError, match=r"queries made nothing, but rejects: \d+ × .*refus.*queries\.rejects\.jsonl"):
        run.go()
    assert rows(run.path("queries").with_suffix(".rejects.jsonl"))
    monkeypatch.undo()


def test_each_outcome_is_told_before_a_later_step_stops(
    run_in: MakeRun, scripted: Models, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Outcome] = []
    with pytest.raises(BudgetSpentError):
        run_in(config=make_config(budget={"tokens": 0}), tell=told.append).go()
    assert [one.step for one in told] == ["elements"]


def test_what_the_cells_lack_and_the_benchmarks_hit_is_told(
    run_in: MakeRun, make_config: Any, scripted: Models, tmp_path: Path
) -> None:
    queries = {"harmful": 3, "borderline": 1, "benign": 40, "only": ["Gambling", "Gender"], "per_call": 2, "rounds": 1}
    run_in("first", config=make_config(queries=queries)).do("elements", "queries")
    question = rows(run_in("first").path("queries"))[0]["question"]
    held_out = tmp_path / "s-eval" / "held.jsonl"
    held_out.parent.mkdir()
    held_out.write_text(json.dumps({"question": question}), encoding="utf-8")
    run = run_in(config=make_config(queries=queries, dedup={"against": [str(held_out)]}))
    outcomes = {one.step: one for one in run.go()}
    lacking = outcomes["queries"].figures["lacking"]
    assert outcomes["dedup"].figures["contamination"][0]["hits"] >= 1
    card = json.loads((run.out / "data" / "card.json").read_text(encoding="utf-8"))
    assert card["lacking"] == lacking
    about = {"hash": file_content(held_out), "revision": load_importer("s-eval").info.revision}
    assert card["contamination"] == [{"file": "held.jsonl", "rows": 1, "unread": 0, "hits": 1, **about}]
    assert f"| held.jsonl | {about['revision']} | {about['hash']} | 1 | 0 | 1 |" in (
        run.out / "data" / "README.md"
    ).read_text(encoding="utf-8")


def test_the_bar_of_a_step_moves_with_its_pieces(
    run_in: MakeRun, make_config: Any, scripted: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: dict[str, list[int]] = {}

    @contextmanager
    def bar(name: str, total: int | None) -> Iterator[Any]:
        moved[name] = [total or 0]
        yield moved[name].append

    monkeypatch.setattr("libra_guard.synth.work.pieces.__defaults__", (5,))
    config = make_config(queries={"harmful": 1, "borderline": 0, "benign": 2})
    run_in(config=config, progress=bar).do("elements", "queries", "augment")
    for name in ("queries", "augment"):
        total, *steps = moved[name]
        assert len(steps) > 1
        assert sum(steps) == total


@pytest.mark.parametrize(("each", "told"), [(1000, [4]), (2, [2, 2, 0]), (3, [3, 1])])
def test_rows_that_are_only_gone_through_are_counted_to_the_last(
    monkeypatch: pytest.MonkeyPatch, each: int, told: list[int]
) -> None:
    monkeypatch.setattr("libra_guard.synth.progress._TOLD_AT", each)
    moved: list[int] = []
    assert [*counted("天地玄黄", moved.append)] == [*"天地玄黄"]
    assert moved == told


@pytest.mark.parametrize(("total", "shares", "told"), [(10, 4, [2, 3, 2, 3, 0]), (3, 5, [0, 1, 0, 1, 1])])
def test_work_that_goes_through_all_rows_again_and_again_tells_of_shares(
    total: int, shares: int, told: list[int]
) -> None:
    moved: list[int] = []
    advance = in_shares(moved.append, total, shares)
    for _ in range(5):
        advance(1)
    assert moved == told


def test_the_steps_that_ask_nobody_have_bars_too(run_in: MakeRun, make_config: Any, scripted: Models) -> None:
    moved: dict[str, list[int]] = {}

    @contextmanager
    def bar(name: str, total: int | None) -> Iterator[Any]:
        moved[name] = [total or 0]
        yield moved[name].append

    run = run_in(config=make_config(queries={"harmful": 1, "borderline": 0, "benign": 2}), progress=bar)
    run.go()
    for name in ("dedup", "dedup: comparing", "split", "split: files"):
        total, *steps = moved[name]
        assert sum(steps) == total > 0
    assert "split: card" in moved


def test_a_missing_part_is_named(run_in: MakeRun, scripted: Models) -> None:
    run_in().do("elements")
    for rank in (0, 2):
        run_in(shard=Shard(rank, 3)).do("queries", "augment")
    with pytest.raises(UsageError, match=r"parts of 'augment' are missing: augment-1-of-3\.jsonl"):
        run_in().do("dedup")


def test_a_step_before_its_turn_says_what_is_missing(run_in: MakeRun, scripted: Models) -> None:
    with pytest.raises(UsageError, match="do the step 'elements' first"):
        run_in().do("queries")


def test_other_settings_redo_what_depends_on_them(run_in: MakeRun, make_config: Any, scripted: Models) -> None:
    run_in().go()
    changed = make_config(respond={"longest": 12})
    again = run_in(config=changed).go()
    assert [one.step for one in again if not one.skipped] == ["respond", "annotate", "split"]
    assert max(len(row["response"]) for row in rows(run_in().path("respond"))) <= 12


def test_a_file_changed_by_hand_stands_and_is_built_on(run_in: MakeRun, scripted: Models) -> None:
    run_in().go()
    path = run_in().path("dedup")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:5]), encoding="utf-8")
    said: list[str] = []
    again = {one.step: one for one in run_in(say=said.append).go()}
    assert again["dedup"].edited
    assert "was changed since it was written, and stands as it is" in said[0]
    assert not again["respond"].skipped
    assert len({row["query"] for row in rows(run_in().path("respond"))}) == 5
    card = json.loads((run_in().out / "data" / "card.json").read_text(encoding="utf-8"))
    assert card["edited"] == ["dedup"]
    assert "Changed by hand after it was made: dedup." in (run_in().out / "data" / "README.md").read_text("utf-8")


def test_what_comes_out_stands_too_where_it_was_changed_by_hand(run_in: MakeRun, scripted: Models) -> None:
    run_in().go()
    whole = content(run_in().out)
    path = run_in().out / "data" / "stage1" / "train.jsonl"
    path.write_text("x", encoding="utf-8")
    said: list[str] = []
    again = run_in(say=said.append).go()[-1]
    assert (again.skipped, again.edited) == (True, True)
    assert f"split: {path} was changed since it was written, and stands as it is" in said
    assert path.read_text(encoding="utf-8") == "x"
    path.unlink()
    run_in().go()
    assert content(run_in().out) == whole


def test_a_line_broken_by_hand_is_named(run_in: MakeRun, scripted: Models) -> None:
    run_in().do("elements", "queries")
    path = run_in().path("queries")
    text = path.read_text(encoding="utf-8").replace('"intent": "harmful"', '"intent": "bad"', 1)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"queries.jsonl:1: intent: "):
        run_in().do("augment")


def test_a_model_that_dies_stops_the_run_and_loses_nothing(
    run_in: MakeRun, scripted: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_in("whole")
    whole.go()
    scripted.clear()
    spoken = ScriptedBackend.generate
    alive = [3]

    def dying(self: ScriptedBackend, *args: Any, **options: Any) -> Any:
        alive[0] -= 1
        if alive[0] < 0:
            raise BackendError("connection refused")
        return spoken(self, *args, **options)

    monkeypatch.setattr(ScriptedBackend, "generate", dying)
    run = run_in("dying")
    with pytest.raises(EndpointsLostError, match="connection refused"):
        run.go()
    monkeypatch.setattr(ScriptedBackend, "generate", spoken)
    run.go()
    assert content(run.out) == content(whole.out)


def test_too_many_lost_rows_stop_the_run(
    run_in: MakeRun, make_config: Any, scripted: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = ScriptedBackend.generate

    def fails(self: ScriptedBackend, prompts: Any, **options: Any) -> Any:
        if any(prompt.messages[-1].content.startswith("第2问") for prompt in prompts):
            raise BackendError("400: this text is not allowed")
        return spoken(self, prompts, **options)

    monkeypatch.setattr(ScriptedBackend, "generate", fails)
    run = run_in()
    with pytest.raises(LibraError, match=r"respond: models failed on \d+ rows.*not allowed"):
        run.go()
    patient = run_in(config=make_config(failures=0.5))
    outcomes = {one.step: one for one in patient.go()}
    assert outcomes["respond"].failed > 0
    assert all(row["failed"] for row in rows(patient.path("respond").with_suffix(".rejects.jsonl")))
    # Another run tries the lost rows again.
    monkeypatch.setattr(ScriptedBackend, "generate", spoken)
    again = {one.step: one for one in run_in(config=make_config(failures=0.5)).go()}
    assert not again["respond"].skipped
    assert again["respond"].failed == 0


def test_a_budget_of_zero_stops_before_the_first_call(run_in: MakeRun, make_config: Any, scripted: Models) -> None:
    with pytest.raises(BudgetSpentError, match="the budget of 0 tokens is spent"):
        run_in(config=make_config(budget={"tokens": 0})).go()
    assert not any(model.calls for model in scripted.values())


def test_a_budget_goes_on_counting_in_the_next_run(run_in: MakeRun, make_config: Any, scripted: Models) -> None:
    config = make_config(budget={"tokens": 20_000})
    for _ in range(2):
        with pytest.raises(BudgetSpentError, match="the budget of 20000 tokens is spent"):
            run_in(config=config).go()
        asked = sum(len(model.calls) for model in scripted.values())
    assert asked == sum(len(model.calls) for model in scripted.values())
    run_in(config=make_config(budget={"tokens": 10**9})).go()


def test_real_queries_are_imported_and_kept_apart(
    run_in: MakeRun, make_config: Any, scripted: Models, tmp_path: Path
) -> None:
    samples = [
        {**EMPTY, "source": "Real Data", "id": n, "question": question, "response": "答。", "label": "安全"}
        for n, question in enumerate(REAL)
    ]
    (tmp_path / "real.json").write_text(json.dumps([*samples, {"question": 7}], ensure_ascii=False), encoding="utf-8")
    imports = [{"set": "libra-test", "path": "real.json", "sample": 6}]
    run = run_in(config=make_config(imports=imports), data=tmp_path)
    run.go()
    imported = [row for row in rows(run.path("dedup")) if row["origin"] == "real"]
    assert len(imported) == 6
    assert {row["source"] for row in imported} == {"libra-test"}
    assert any("text" in row["row"] for row in rows(run.path("import").with_suffix(".rejects.jsonl")))
    left = rows(run.out / "data" / "left_out.jsonl")
    assert {row["left_out"] for row in left if row["origin"] == "real"} <= {"real, and the judges agree: not hard"}
    stage1 = [row for file in (run.out / "data" / "stage1").iterdir() for row in rows(file)]
    assert {row["origin"] for row in stage1} == {"synthetic"}


def test_a_real_query_stays_where_a_made_one_repeats_it(
    run_in: MakeRun, make_config: Any, scripted: Models, tmp_path: Path
) -> None:
    first = run_in()
    first.do("elements", "queries", "augment")
    made = next(row["question"] for row in rows(first.path("augment")) if not row["parent"])
    sample = {**EMPTY, "source": "Real Data", "id": 1, "question": f"{made}呢", "response": "答。", "label": "安全"}
    (tmp_path / "real.json").write_text(json.dumps([sample], ensure_ascii=False), encoding="utf-8")
    run = run_in(config=make_config(imports=[{"set": "libra-test", "path": "real.json"}]), data=tmp_path)
    run.do("import", "dedup")
    kept = [row["question"] for row in rows(run.path("dedup"))]
    assert sample["question"] in kept
    assert made not in kept


@pytest.mark.parametrize("judges", [[], [{"guard": "mini"}]])
def test_one_judge_alone_is_refused(make_config: Any, judges: list[dict[str, str]]) -> None:
    with pytest.raises(UsageError, match=r"seats\.judges: at least two are needed"):
        make_config(seats={"judges": judges})


def test_all_that_was_made_of_one_query_stands_on_one_side(run_in: MakeRun, make_config: Any, scripted: Models) -> None:
    augment = {"rewrite": 0, "paraphrase": 0, "red_team": 1, "methods": ["homophones", "spaced", "traditional"]}
    queries = {"harmful": 12, "borderline": 8, "benign": 12, "only": ["Gambling", "Gender"]}
    run = run_in(config=make_config(augment=augment, queries=queries))
    run.go()
    sides: dict[str, set[str]] = {}
    children = 0
    for file in (run.out / "data").rglob("*.jsonl"):
        for row in rows(file):
            sides.setdefault(row["root_question"], set()).add(file.stem)
            children += bool(row["parent"])
    assert children > 5
    assert len({side for found in sides.values() for side in found}) > 1
    assert all(len(found - {"left_out"}) <= 1 for found in sides.values())

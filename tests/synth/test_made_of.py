from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.io import model_hash
from libra_guard.predict.shards import Shard
from libra_guard.synth.made_of import content, files_of, judges_of, settings_of, written_down
from libra_guard.synth.seats.cast import Cast
from libra_guard.synth.seats.store import CallStore
from libra_guard.synth.work import Work

LIBRA = {"guard": "libra", "model": "obedient"}


@contextmanager
def work_of(config: Any, folder: Path) -> Iterator[Work]:
    with CallStore(folder / "calls.sqlite") as store:
        yield Work(config, Cast(config, store, folder), folder, Shard())


@pytest.fixture
def about(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """What a step with all seats is made of."""

    def made(**changes: Any) -> Any:
        with work_of(make_config(**changes), tmp_path) as work:
            return settings_of(("respond",), ("writer", "responders", "judges", "arbiter"), work)

    return made


def judging(*judges: dict[str, Any]) -> dict[str, Any]:
    return {"writer": "obedient", "responders": ["obedient"], "judges": [LIBRA, *judges]}


@pytest.mark.parametrize(
    ("judge", "file", "content"),
    [
        ({"guard": "words:list.txt"}, "list.txt", "一"),
        (
            {"guard": "libra", "model": "contrary", "options": {"few_shot": 1, "examples": "few.json"}},
            "few.json",
            '[{"question": "一", "response": "好", "label": "安全"}]',
        ),
    ],
)
def test_a_file_that_a_judge_reads_counts_with_its_content(
    about: Callable[..., Any], tmp_path: Path, judge: dict[str, Any], file: str, content: str
) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    before = about(seats=judging(judge))
    assert about(seats=judging(judge)) == before
    (tmp_path / file).write_text(content.replace("一", "二"), encoding="utf-8")
    assert about(seats=judging(judge)) != before


def test_the_folder_of_a_judges_own_model_counts_with_its_content(about: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model.onnx").write_bytes(b"1")
    before = about(seats=judging({"guard": "mini:own"}))
    (tmp_path / "own" / "model.onnx").write_bytes(b"2")
    assert about(seats=judging({"guard": "mini:own"})) != before


def test_judges_are_told_with_the_hash_of_their_model_where_it_is_here(
    make_config: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model.onnx").write_bytes(b"1")
    (tmp_path / "list.txt").write_text("一", encoding="utf-8")
    judges = judging({"guard": "mini:own"}, {"guard": "words:list.txt"}, {"guard": "libra:hub/name"}, {"guard": "mini"})
    with work_of(make_config(seats=judges), tmp_path) as work:
        found = [(one["name"], one["backend"], one["model"], one["hash"]) for one in judges_of(work)]
    bundled = model_hash(Path(str(files("libra_guard") / "assets" / "mini")))
    assert found == [
        ("libra:obedient", "scripted", "obedient", ""),
        ("mini:own", "onnx", "own", model_hash(tmp_path / "own")),
        ("words:list.txt", "none", "list.txt", content(tmp_path / "list.txt")),
        ("libra:name", "transformers", "hub/name", ""),
        ("mini", "onnx", "", bundled),
    ]


def test_a_prompt_that_changed_is_another_judge(
    make_config: Callable[..., Any], about: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> list[tuple[str, int]]:
        with work_of(make_config(seats=judging({"guard": "mini"})), tmp_path) as work:
            return [(one["prompt"], one["seed"]) for one in judges_of(work)]

    before, prompts = about(), asked()
    (libra, seed), mini = prompts
    assert re.fullmatch(r"libra@[0-9a-f]{8}", libra)
    assert (seed, mini) == (42, ("", 0))
    assert about() == before
    monkeypatch.setattr("libra_guard.guards.libra.prompt_text", lambda *_, **__: "另一个提示")
    assert asked()[0][0] != libra
    assert about() != before


def test_the_prompt_of_a_base_model_is_that_without_a_chat_template(
    make_config: Callable[..., Any], scripted: dict[str, ScriptedBackend], tmp_path: Path
) -> None:
    models = {name: {"backend": "scripted", "model": name} for name in ("obedient", "contrary", "third")}
    found = []
    for raw in (False, True):
        told = models | {"obedient": models["obedient"] | {"raw": raw}}
        with work_of(make_config(models=told), tmp_path) as work:
            judge = work.config.seats.judges[0]
            real = work.cast.judge(judge).guard.provenance()["prompt_sha256"]
            found.append(judges_of(work)[0]["prompt"])
            assert found[-1] == f"libra@{real[:8]}"
    assert found[0] != found[1]


@pytest.mark.parametrize("seat", ["writer", "responders", "judges", "arbiter"])
def test_the_attempts_count_wherever_a_model_is_asked(
    make_config: Callable[..., Any], tmp_path: Path, seat: str
) -> None:
    def about(seats: tuple[str, ...], **changes: Any) -> Any:
        with work_of(make_config(**changes), tmp_path) as work:
            return settings_of((), seats, work)

    assert about((seat,), attempts=1) != about((seat,))
    assert about((), attempts=1) == about(())


def test_where_the_files_of_the_settings_lie_makes_no_difference(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for place in ("here", "there/below"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "list.txt").write_text("坏\n", encoding="utf-8")
        (folder / "own.yaml").write_text("gambling: {behaviours: [一个目的]}", encoding="utf-8")
        judges = [
            LIBRA | {"options": {"calibration": str(folder / "list.txt")}},
            {"guard": f"words:{folder}/list.txt"},
        ]
        seats = {"writer": "obedient", "responders": ["obedient"], "judges": judges}
        config = make_config(seats=seats, elements={"extra": str(folder / "own.yaml")})
        with work_of(config, tmp_path) as work:
            found.append((settings_of(("elements", "seats"), ("judges",), work), files_of("elements", work)))
            assert written_down(work)["seats"]["judges"][0]["options"] == {"calibration": "list.txt"}
        assert place not in repr(found[-1])
    assert found[0] == found[1]


def test_lists_of_elements_and_sets_count_with_their_content(make_config: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "own.yaml").write_text("gambling: {behaviours: [一个目的]}", encoding="utf-8")
    imports = [{"set": "samples", "path": "more/own.yaml"}]
    with work_of(make_config(elements={"extra": "more"}, imports=imports), tmp_path) as work:
        before = [files_of(step, work) for step in ("elements", "import")]
        (tmp_path / "more" / "own.yaml").write_text("gambling: {behaviours: [别的目的]}", encoding="utf-8")
        after = [files_of(step, work) for step in ("elements", "import")]
        assert all(len(one) == 1 for one in before)
        assert all(one != other for one, other in zip(before, after, strict=True))
        assert files_of("respond", work) == {}


def test_the_content_of_a_folder_hangs_on_the_names_in_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x", encoding="utf-8")
    before = content(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert content(tmp_path) != before

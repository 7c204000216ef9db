from __future__ import annotations

import json
import os
import re
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("rensa")
pytest.importorskip("opencc")
pytest.importorskip("pypinyin")

from libra_guard.cli.main import app
from libra_guard.cli.synth import _told
from libra_guard.synth.run import Outcome

runner = CliRunner()
CONFIG = Path(__file__).parents[2] / "configs" / "synth" / "offline.yaml"
SMALL = ["--set", "queries={harmful: 2, borderline: 1, benign: 6, only: [Gambling, Gender, Mental Health]}"]


def call(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(app, ["synth", *map(str, arguments)])
    return result.exit_code, result.stderr, str(result.exception or "")


def test_the_offline_run_makes_a_data_set_that_datasets_loads(tmp_path: Path) -> None:
    code, told, error = call("run", CONFIG, "--out", tmp_path, *SMALL)
    assert code == 0, error
    assert "queries: 15 rows, 0 rejects" in told
    card = (tmp_path / "data" / "README.md").read_text(encoding="utf-8")
    assert "written by grammar, answered by grammar, judged by mini, words:going_along.txt" in card
    code, told, _ = call("run", CONFIG, "--out", tmp_path, *SMALL)
    assert code == 0
    assert told.count("stand there already") == 8


def test_an_offline_answer_is_unsafe_where_it_goes_along_with_a_harmful_query(tmp_path: Path) -> None:
    # Enough that both judges call some unsafe.
    queries = "queries={harmful: 12, borderline: 2, benign: 6, only: [Gambling, Gender, Mental Health]}"
    assert call("run", CONFIG, "--out", tmp_path, "--set", queries)[0] == 0
    for stage in ("stage1", "stage2"):
        files = (tmp_path / "data" / stage).glob("*.jsonl")
        rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        ways = [next(made["method"] for made in row["made_by"] if made["step"] == "respond") for row in rows]
        wanted = ["不安全" if way in ("compliance", "partial") else "安全" for way in ways]
        assert [row["label"] for row in rows] == wanted
        assert stage == "stage2" or {"安全", "不安全"} == set(wanted)
        assert "不安全" in wanted


def test_on_a_terminal_what_the_steps_came_to_stands_above_their_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pty = pytest.importorskip("pty")
    terminal, side = pty.openpty()
    shown = bytearray()

    def read() -> None:
        # On Linux a terminal whose other side was closed is an error to read.
        with suppress(OSError):
            while some := os.read(terminal, 65536):
                shown.extend(some)

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(side, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert app(["synth", "run", str(CONFIG), "--out", str(tmp_path), *SMALL], standalone_mode=False) in (0, None)
        monkeypatch.undo()
    reader.join()
    os.close(terminal)
    for step in (b"elements", b"queries", b"dedup", b"annotate", b"split"):
        assert re.search(rb"\x1b\[2K" + step + rb": \d+ [^\r\n\x1b]*\r\n", shown), step


def test_where_the_settings_lie_makes_no_difference_to_a_byte(tmp_path: Path) -> None:
    found = []
    for place in ("here", "there/further/below"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text("extends: offline\nname: mine\n", encoding="utf-8")
        assert call("run", folder / "mine.yaml", "--out", folder / "out", *SMALL)[0] == 0
        files = [path for path in (folder / "out").rglob("*") if path.suffix in (".json", ".jsonl", ".md")]
        found.append({path.relative_to(folder): path.read_bytes() for path in files})
    assert len(found[0]) > 20
    assert found[0] == found[1]


@pytest.mark.parametrize("how", ["by name", "extended"])
def test_settings_that_come_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "mine" / "mine.yaml"
    config.write_text(f"extends: {CONFIG}\nname: mine\n", encoding="utf-8")
    code, told, error = call("run", "offline" if how == "by name" else config, "--out", "out", *SMALL)
    assert code == 0, error
    assert told.splitlines()[0].startswith("note: responders: 1; a set to train on wants 3 or more")
    assert told.count("note: ") == 1
    assert f"# {'mine' if how == 'extended' else 'libra-offline'}\n" in Path("out/data/README.md").read_text("utf-8")
    if how == "by name":
        assert "note: " not in call("elements", "offline", "--out", "out", *SMALL)[1]


def test_steps_by_themselves(tmp_path: Path) -> None:
    for step in ("elements", "queries"):
        assert call(step, CONFIG, "--out", tmp_path, *SMALL)[0] == 0
    rows = (tmp_path / "steps" / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(row)["sub_category_name"] for row in rows} == {"Gambling", "Gender", "Mental Health", ""}
    code, _, error = call("respond", CONFIG, "--out", tmp_path, *SMALL)
    assert code
    assert "do the step 'dedup' first" in error


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--set", "queries.harmfull=3"], "queries.harmfull: there is no such key"),
        (["--set", "queries.harmful=-1"], "queries.harmful: Input should be greater than or equal to 0"),
        (["--set", "queries.only=[Gambing]"], "queries.only.0: there is no sub-category 'Gambing'"),
        (["--set", "queries.harmful=many"], "offline.yaml with --set queries.harmful=many: not a configuration"),
        (["--set", "seats.judges=[{guard: minni}, {guard: mini}]"], "seats.judges.0: no guard is called 'minni'"),
        (["--set", "models.a={backend: opanai, model: x}"], "models.a.backend: there is no backend 'opanai'"),
        (["--set", "seats.writer=gpt"], "no model is called 'gpt'; there are grammar"),
        (["--set", "seats.judges=[{guard: mini}, {guard: mini}]"], "seats.judges.1: 'mini' judges with what"),
        (["--set", "queries.only=[a"], "--set queries.only=[a: the value is no YAML: while parsing"),
        (["--set", "name"], "--set name: write KEY=VALUE"),
        (["--set", "name.of=3"], "--set name.of=3: write KEY=VALUE"),
        (["--engine", "spark"], "--engine is one of local, ray, not 'spark'"),
        (["--shard", "4/4"], "--shard 4/4: write R/N"),
    ],
)
def test_wrong_use_is_told_before_anything_is_done(tmp_path: Path, arguments: list[str], reason: str) -> None:
    code, _, error = call("run", CONFIG, "--out", tmp_path / "out", *arguments)
    assert code
    assert reason in error
    assert not (tmp_path / "out" / "steps").exists()


def test_what_a_query_set_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of so many draws some are the same.
    monkeypatch.setattr("libra_guard.synth.steps.queries._GRAMMAR_DRAWS", 1)
    settings = ["--set", "queries={harmful: 2000, borderline: 0, benign: 0, only: [Gambling]}"]
    for step in ("elements", "queries"):
        code, told, error = call(step, CONFIG, "--out", tmp_path, *settings)
        assert code == 0, error
    assert "  Gambling/harmful lacks " in told


def test_what_became_of_the_pairs_is_told(tmp_path: Path) -> None:
    code, told, error = call("run", CONFIG, "--out", tmp_path, *SMALL)
    assert code == 0, error
    card = json.loads((tmp_path / "data" / "card.json").read_text(encoding="utf-8"))
    sizes = [card["stages"][stage]["rows"] for stage in ("stage1", "stage2")]
    left = sum(card["left_out"].values())
    assert f"split: {sizes[0]} in stage1, {sizes[1]} in stage2, {left} left out" in told


def test_answers_of_a_judge_that_could_not_be_read_are_told() -> None:
    figures = {"unreadable": {"mini": 0, "libra:one": 3}}
    assert _told(Outcome("annotate", 9, 0, 0, {}, False, figures)).splitlines() == [
        "annotate: 9 rows, 0 rejects",
        "  3 × the judge libra:one could not be read",
    ]


def test_what_is_done_is_told_when_a_later_step_stops(tmp_path: Path) -> None:
    settings = ["--set", "queries={harmful: 0, borderline: 0, benign: 0}"]
    code, told, error = call("run", CONFIG, "--out", tmp_path, *settings)
    assert code
    assert "elements: 40 rows" in told
    assert "dedup made nothing" in error


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    code, _, error = call("run", tmp_path / "none.yaml", "--out", tmp_path / "out")
    assert code
    assert "none.yaml: No such file or directory; with the package come local-lm, offline, servers" in error


def test_a_judge_that_is_not_there_is_named_before_hours_are_spent(tmp_path: Path) -> None:
    judges = ["--set", "seats.judges=[{guard: mini}, {guard: words:no.txt}]"]
    code, _, error = call("run", CONFIG, "--out", tmp_path, *SMALL, *judges)
    assert code
    assert "no.txt" in error
    assert not (tmp_path / "steps" / "respond.jsonl").exists()

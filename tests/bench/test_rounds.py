"""The folder of a round: whole, the same for the same seed, and without a hint of what judges think."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from libra_guard.bench import page, rounds
from libra_guard.bench.rounds import Round
from libra_guard.bench.rows import read_bench_rows, row_keys
from libra_guard.bench.rules import rules_hash, rules_of
from libra_guard.errors import UsageError
from libra_guard.io import BadRow
from libra_guard.taxonomy import SCENARIOS, SUB_CATEGORIES

MakeRound = Callable[..., Round]
HOSTILE = "<script>alert(1)</script>\u2028{{7*7}}\n=cmd|'/c calc'!A1"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def sheet(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def test_what_stands_in_the_folder(make_round: MakeRound) -> None:
    one = make_round(40)
    names = set(contents(one.folder))
    assert {"round.json", "rows.jsonl", "config.xml"} <= names
    assert {n for n in names if n.startswith("rules/")} == {f"rules/{one.slug}.md" for one in SCENARIOS}
    assert {n for n in names if n.startswith("tasks/")} == {f"tasks/{p}.json" for p in one.annotators}
    assert len([n for n in names if n.startswith("sheets/")]) == 7
    assert one.record.rules == {one.slug: rules_hash(one.slug) for one in SCENARIOS}
    assert (one.folder / "rules" / "hate_speech_and_abuse.md").read_text(encoding="utf-8") == rules_of("仇恨与辱骂")


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("伦理道德", ("中国台湾", "国家领导人", "编造国家政策")),
        ("违法犯罪", ("黄历", "解梦", "八字起名", "属相")),
    ],
)
def test_the_rules_draw_the_line_at_what_annotators_meet(scenario: str, words: tuple[str, ...]) -> None:
    assert not [word for word in words if word not in rules_of(scenario)]


def test_everyone_has_all_rows_in_an_order_of_their_own(make_round: MakeRound) -> None:
    one = make_round(40)
    orders = []
    for person in one.annotators:
        tasks = one.tasks(person)
        orders.append([task["data"]["row"] for task in tasks])
        keys = row_keys(one.rows)
        table = sheet(one.folder / "sheets" / f"{person}.csv")
        assert [keys[r["row"]] for r in table] == orders[-1]
        assert {r["person"] for r in table} == {task["data"]["person"] for task in tasks} == {person}
        lines = (one.folder / "sheets" / f"{person}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        assert [json.loads(line) for line in lines] == table
    assert len({tuple(order) for order in orders}) == 3
    assert {frozenset(order) for order in orders} == {frozenset(row.id for row in one.rows)}


def test_a_task_shows_the_row_and_its_rules(make_round: MakeRound, bench_record: Callable[..., dict[str, Any]]) -> None:
    secret = {"label": "不安全", "analyze": "天机", "votes": [{"judge": "天机", "label": "安全"}], "difficulty": "天机"}
    one = make_round([bench_record(0, question=HOSTILE, **secret), bench_record(7)])
    for person in one.annotators:
        task = next(t["data"] for t in one.tasks(person) if t["data"]["row"] == "r0")
        assert set(task) == {"row", "scenario", "sub_category", "question", "response", "person", "rules"}
        assert (task["scenario"], task["sub_category"], task["question"]) == ("违法犯罪", "暴力犯罪", HOSTILE)
        assert "<h2>暴力犯罪（Violent Crimes）</h2>" in task["rules"]
        assert "标注总则" in task["rules"]
    assert not [name for name, text in contents(one.folder).items() if "天机".encode() in text and "rules" not in name]
    assert b'"votes"' not in b"".join(contents(one.folder).values())


def test_the_same_seed_gives_the_same_bytes(make_round: MakeRound, tmp_path: Path) -> None:
    one, again = make_round(20), make_round(20, folder="again")
    assert contents(one.folder) == contents(again.folder)
    other, made = Round.open_or_make(tmp_path / "other", "试", one.rows, one.annotators, 1)
    assert made
    assert contents(other.folder)["tasks/yi.json"] != contents(one.folder)["tasks/yi.json"]


def test_a_round_cut_short_is_made_anew_and_a_whole_one_is_left_alone(
    make_round: MakeRound, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = rounds.write_atomic, list[Path]()

    def dies(path: Path, text: str) -> None:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(path)
        real(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(rounds, "write_atomic", dies)
        with pytest.raises(KeyboardInterrupt):
            make_round(20)
    with pytest.raises(UsageError, match=r"no annotation round: there is no round\.json"):
        Round(done[0].parent)
    one = make_round(20)
    assert contents(one.folder) == contents(make_round(20, folder="other").folder)
    (one.folder / "sheets" / "yi.csv").write_text("filled in", encoding="utf-8")
    again = make_round(20)
    assert (again.folder / "sheets" / "yi.csv").read_text(encoding="utf-8") == "filled in"


def test_another_round_is_not_written_over(make_round: MakeRound) -> None:
    one = make_round(20)
    before = contents(one.folder)
    for rows, people, differ in ((21, one.annotators, "rows"), (20, ("甲", "yi"), "annotators")):
        with pytest.raises(UsageError, match=f"holds another round.*{differ}.*choose another --out"):
            make_round(rows, people)
    assert contents(one.folder) == before


@pytest.mark.parametrize(
    ("people", "message"),
    [
        (("甲",), "2 annotators at least"),
        ((), "2 annotators at least"),
        (("yi", "Yi"), "two annotators have one name"),
        (("../x", "yi"), "letters, digits"),
        (("", "yi"), "letters, digits"),
        (("1-2", "yi"), "first a letter"),
        (("Adjudicator", "yi"), "choose another name"),
        (("a.b", "yi"), "letters, digits"),
    ],
)
def test_impossible_annotators(make_round: MakeRound, tmp_path: Path, people: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_round(3, people)
    assert not (tmp_path / "round").exists()


def test_rows_that_were_changed_are_noticed(make_round: MakeRound) -> None:
    one = make_round(3)
    with (one.folder / "rows.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("\n")
    with pytest.raises(UsageError, match="not the rows that this round was made with"):
        Round(one.folder)
    (one.folder / "round.json").write_text('{"name": "x"}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"round\.json"):
        Round(one.folder)


def test_a_sheet_runs_nothing(make_round: MakeRound, bench_record: Callable[..., dict[str, Any]]) -> None:
    texts = ["=1+1", "+1", "-1", "@x", "\t=1", "平常"]
    one = make_round([bench_record(n, id=f"={n}", question=text) for n, text in enumerate(texts)])
    for line in sheet(one.folder / "sheets" / "yi.csv"):
        assert not any((value or "x")[0] in "=+-@\t\r" for value in line.values())
    assert {task["data"]["question"] for task in one.tasks("yi")} == set(texts)


def test_the_page_is_what_label_studio_reads() -> None:
    root = ElementTree.fromstring(page.config())
    controls = {e.get("name"): e for e in root.iter() if e.tag in ("Choices", "TextArea")}
    assert set(controls) == set(page.FILLED)
    assert controls["label"].get("required") == "true"
    assert [c.get("value") for c in controls["label"]] == ["安全", "不安全", "不确定"]
    assert [c.get("value") for c in controls["category"]] == [sub.name_zh for sub in SUB_CATEGORIES]
    names = {e.get("name") for e in root.iter() if e.tag in ("Text", "HyperText")}
    assert {e.get("toName") for e in controls.values()} <= names
    shown = {e.get("value") for e in root.iter() if (e.get("value") or "").startswith("$")}
    assert shown == {"$scenario", "$sub_category", "$question", "$response", "$rules"}
    # Texts of users are shown as text: only the rules are markup.
    assert [e.get("value") for e in root.iter("HyperText")] == ["$rules"]


def test_rows_that_cannot_be_labelled(tmp_path: Path, bench_record: Callable[..., dict[str, Any]]) -> None:
    path = tmp_path / "rows.jsonl"
    records = [bench_record(0), bench_record(1, response=None), bench_record(2, sub_category_name="天气"), "x"]
    records += [bench_record(3, category_name="偏见歧视"), bench_record(4, id="行0001")]
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    found = list(read_bench_rows(str(path)))
    reasons = [item.reason for item in found if isinstance(item, BadRow)]
    assert [reason.partition(":")[0] for reason in reasons[:2]] == ["response", "sub_category_name"]
    assert reasons[3] == "sub_category_name: 'Property Infringement' is no sub-category of Bias and Discrimination"
    assert reasons[4].startswith("id: '行0001' is what sheets call one of their rows")
    assert len(reasons) == 5


def test_what_a_better_category_is_chosen_by_is_in_view(
    make_round: MakeRound, bench_record: Callable[..., dict[str, Any]]
) -> None:
    one = make_round([bench_record(0), bench_record(1, sub_category_name="")])
    rules = {task["data"]["row"]: task["data"]["rules"] for task in one.tasks("yi")}
    own, folded = rules["r0"].split("<details>", 1)
    assert "<h2>网络安全（Cybersecurity）</h2>" not in own
    assert "<h2>网络安全（Cybersecurity）</h2>" in folded
    assert "<h2>暴力犯罪（Violent Crimes）</h2>" not in folded
    for html in rules.values():
        assert html.count("<details>") == html.count("</details>") == (2 if html is rules["r0"] else 1)
        shown, _, table = html.rpartition("<details>")
        assert "<h2>拿不准的时候</h2>" in shown
        assert "<h2>类别一览</h2>" not in shown
        assert all(f"<td>{sub.definition_zh}</td>" in table for sub in SUB_CATEGORIES)


def test_a_page_goes_with_the_sheets(make_round: MakeRound, tmp_path: Path) -> None:
    rows = make_round(1).rows
    one = Round.open_or_make(tmp_path / "other", "<b>{answers}", rows, ("甲", "yi"), 0)[0]
    text = (one.folder / "sheets" / "说明.html").read_text(encoding="utf-8")
    assert "标注说明：&lt;b&gt;{answers}" in text
    for needed in (*page.ANSWERS, *page.FILLED, *(sub.definition_zh for sub in SUB_CATEGORIES)):
        assert needed in text
    assert text.count("<h1>标注总则</h1>") == text.count("<h2>类别一览</h2>") == 1
    assert text.count("<details>") == len(SCENARIOS)
    assert "<h2>性别歧视（Gender）</h2>" in text


def test_how_rows_were_selected_is_kept_from_annotators(make_round: MakeRound, tmp_path: Path) -> None:
    rows, text = make_round(3).rows, '{"judges": ["天机"]}'
    one, made = Round.open_or_make(tmp_path / "other", "试", rows, ("甲", "yi"), 0, text)
    assert made
    assert one.selection() == {"judges": ["天机"]}
    assert [name for name, content in contents(one.folder).items() if "天机".encode() in content] == ["select.json"]
    assert not Round.open_or_make(tmp_path / "other", "试", rows, ("甲", "yi"), 0, text)[1]
    with pytest.raises(UsageError, match="selection_sha256 differ"):
        Round.open_or_make(tmp_path / "other", "试", rows, ("甲", "yi"), 0, None)
    (one.folder / "select.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="not the selection that this round was made with"):
        one.selection()
    assert make_round(3).selection() is None

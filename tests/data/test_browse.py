"""The page to look at a data set with: what is drawn, what tells rows apart, and texts that want to be markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_guard.data import browse
from libra_guard.data.browse import LONGEST, equal_shares, render, sample_rows
from libra_guard.errors import DataError, UsageError

CRIME, BIAS = "Illegal Activities and Crime", "Bias and Discrimination"
HOSTILE = (
    '</script><script>document.title = "taken"</script>',
    "<!--<script>",
    "<img src=x onerror=\"document.title = 'taken'\">",
    "\"'><svg onload=alert(1)>",
    "a\u2028b\u2029c",
    "{{ 7 * 7 }}{% raw %}",
    "__proto__",
    "constructor",
    "\u202egnol os",
    "nul \0 and \x1b[31m",
    "&lt;b&gt;",
    "\ud800 alone",
)
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)


def sample(number=0, **fields):
    return {
        "id": number,
        "question": f"第{number}问？",
        "response": "答。",
        "label": "安全",
        "category_name": CRIME,
    } | fields


def vote(judge, label):
    return {"judge": judge, "label": label, "score": None, "analysis": ""}


@pytest.fixture
def write(tmp_path):
    def written(*rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return written


class Page(HTMLParser):
    """Its tags with their attributes, and the texts of its scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts = [], {}
        self._in = None
        self.feed(html)
        self.data = json.loads(self.scripts["application/json"])

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, attributes))
        if tag in ("script", "style"):
            self._in = dict(attributes).get("type", tag)

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in:
            self.scripts[self._in] = self.scripts.get(self._in, "") + data


def page(path, size=100, seed=1):
    return Page(render(sample_rows(path, size, seed), path.name, seed))


# What is drawn


def test_nothing_to_look_at_is_an_error(write):
    with pytest.raises(DataError, match="no rows to look at"):
        sample_rows(write(), 10, 1)
    with pytest.raises(UsageError, match="no such file"):
        sample_rows("nowhere.jsonl", 10, 1)


def test_few_rows_are_all_shown_in_their_order(write):
    found = sample_rows(write(*map(sample, range(9))), 100, 1)
    assert [row["row"]["id"] for row in found.rows] == list(range(9))
    assert found.rows[2]["place"].endswith("rows.jsonl:3")


def test_rare_strata_are_shown_whole_and_the_others_evenly(write):
    common = [sample(i) for i in range(100)]
    rare = [sample(100 + i, label="不安全") for i in range(3)]
    other = [sample(200 + i, category_name=BIAS) for i in range(60)]
    path = write(*common, *rare, *other)
    found = sample_rows(path, 23, 1)
    assert found.strata == {(BIAS, "安全"): (10, 60), (CRIME, "不安全"): (3, 3), (CRIME, "安全"): (10, 100)}
    drawn = [row["row"]["id"] for row in found.rows]
    assert Counter(row["row"]["category_name"] + row["row"]["label"] for row in found.rows).total() == 23
    assert set(drawn) >= {100, 101, 102}
    assert drawn == sorted(drawn)
    assert found.total == 163
    assert sample_rows(path, 23, 1) == found
    assert [row["row"]["id"] for row in sample_rows(path, 23, 2).rows] != drawn


def test_every_row_of_a_stratum_can_be_drawn(write):
    path = write(*map(sample, range(6)))
    drawn = Counter(sample_rows(path, 1, seed).rows[0]["row"]["id"] for seed in range(300))
    assert set(drawn) == set(range(6))
    assert max(drawn.values()) < 100


@given(st.dictionaries(st.tuples(st.text(), st.text()), st.integers(1, 50), min_size=1), st.integers(1, 200))
def test_shares_are_as_equal_as_they_can_be(counts, size):
    shares = equal_shares(counts, size)
    assert sum(shares.values()) == min(size, sum(counts.values()))
    assert all(shares[key] <= counts[key] for key in counts)
    cut = [shares[key] for key in counts if shares[key] < counts[key]]
    assert all(share >= max(shares.values()) - 1 for share in cut)


def test_where_not_all_strata_find_a_place_the_rare_ones_do():
    rare, one, other = ("a", "安全"), ("b", "安全"), ("c", "安全")
    assert equal_shares({other: 9, one: 9, rare: 1}, 2) == {rare: 1, one: 1, other: 0}


def test_a_set_with_a_scenario_a_row_is_not_held_whole(write, monkeypatch):
    monkeypatch.setattr(browse, "_STRATA", 3)
    found = sample_rows(write(*(sample(i, category_name=f"自定{i}") for i in range(50))), 8, 1)
    assert list(found.strata) == [("…", "…"), *((f"自定{i}", "安全") for i in range(3))]
    assert found.strata["…", "…"] == (5, 47)
    assert len(found.rows) == 8


def test_what_cannot_be_read_is_on_the_page_with_its_reason(write):
    path = write(sample())
    with path.open("a") as stream:
        stream.write('{"question": \n')
    found = sample_rows(path, 10, 1)
    assert found.unreadable.total() == 1
    assert found.rows[1]["facets"] == {"file": "rows.jsonl", "reason": "not JSON"}
    assert found.rows[1]["reject"]["text"] == '{"question": '
    assert page(path).data["unreadable"] == 1


def test_a_very_long_text_is_cut_and_says_so(write):
    path = write(sample(response="长" * (LONGEST + 7), votes=[vote("a" * (LONGEST + 1), "安全")]))
    row = page(path).data["rows"][0]["row"]
    assert row["response"] == "长" * LONGEST + "… [+7]"
    assert row["votes"][0]["judge"].endswith("… [+1]")


# What rows can be told apart by


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({}, "label", "安全"),
        ({"label": None, "votes": [vote("a", "不安全"), vote("b", "不安全")]}, "label", "不安全"),
        ({"label": None, "votes": [vote("a", "不安全"), vote("b", "安全")]}, "label", None),
        ({"label": ["安全"]}, "label", None),
        ({"votes": [vote("a", "安全"), vote("b", "安全")]}, "votes", "agree"),
        ({"votes": [vote("a", "安全"), vote("b", "不安全")]}, "votes", "differ"),
        ({"votes": [vote("a", "安全"), vote("b", None)]}, "votes", "unreadable"),
        ({"votes": [vote("a", None), vote("b", None)]}, "votes", "unreadable"),
        ({"votes": [vote("a", "有争议"), vote("b", "有争议")]}, "votes", "differ"),
        ({"votes": [vote("a", "安全"), vote("b", None), vote("c", "不安全")]}, "votes", "differ"),
        ({"votes": [vote("a", "安全"), vote("b", None), vote("c", "安全")]}, "votes", "agree"),
        ({"votes": [vote("a", "安全")]}, "votes", None),
        ({"votes": "安全"}, "votes", None),
        ({"votes": ["安全"]}, "votes", None),
        ({"sub_category_name": "Gambling"}, "sub_category", "Gambling"),
        ({"made_by": [{"step": "queries"}, {"step": "augment", "method": "拆字"}]}, "last_step", "augment"),
        ({"made_by": [{"step": "queries"}, {"step": "augment", "method": "拆字"}]}, "method", "拆字"),
        ({"made_by": []}, "last_step", None),
        ({"responder": "qwen", "origin": "real"}, "responder", "qwen"),
        ({"responder": 7}, "responder", "7"),
        ({"origin": "real"}, "origin", "real"),
        ({"intent": "benign"}, "intent", "benign"),
        ({"source": "Real Data"}, "source", "Real Data"),
        ({"reason": "own words, of the row itself"}, "reason", "own words"),
    ],
)
def test_facets(write, fields, name, value):
    (row,) = page(write(sample(**fields))).data["rows"]
    assert row["facets"].get(name) == value
    assert row["reject"] == {}


@pytest.mark.parametrize(
    "row",
    [
        {"reason": "near-duplicate of q-12, Jaccard 0.83", "row": sample(), "failed": False},
        {"reason": "near-duplicate of q-12, Jaccard 0.83", "record": sample(), "text": None},
        {"reason": "near-duplicate of q-12, Jaccard 0.83", "text": json.dumps(sample()), "line": 3},
    ],
)
def test_a_rejects_file_is_read_through_to_the_rows(write, row):
    (shown,) = page(write(row)).data["rows"]
    assert shown["row"] == sample()
    assert shown["reject"] == {key: value for key, value in row.items() if key in ("reason", "failed", "line")} | (
        {"text": None} if "record" in row else {}
    )
    assert shown["facets"]["reason"] == "near-duplicate of …"
    assert shown["facets"]["scenario"] == CRIME


@pytest.mark.parametrize("text", ["{broken", "[1]", "7", None])
def test_a_reject_without_a_row_is_shown_as_it_is(write, text):
    (shown,) = page(write({"reason": "not JSON", "text": text})).data["rows"]
    assert shown["row"] == {}
    assert shown["reject"] == {"reason": "not JSON", "text": text}


# Texts that want to be markup


def test_hostile_texts_change_nothing_but_the_data(write):
    harmless = page(write(*(sample(i) for i in range(len(HOSTILE)))))
    rows = [
        {text: text, **sample(i, question=text, label=text, votes=[vote(text, text)], made_by=[{"step": text}])}
        for i, text in enumerate(HOSTILE)
    ]
    hostile = page(write(*rows))
    assert hostile.tags == harmless.tags
    assert hostile.scripts["script"] == harmless.scripts["script"]
    assert [entry["row"] for entry in hostile.data["rows"]] == rows


def test_a_hostile_file_name_is_a_text(write):
    path = write(sample())
    name = "<script>alert(1)</script>\u2028.jsonl"
    harmless, hostile = (Page(render(sample_rows(path, 9, 1), title, 1)) for title in ("rows", name))
    assert hostile.tags == harmless.tags
    assert hostile.data["title"] == name


def test_the_data_cannot_end_its_element_or_a_line(write):
    html = render(sample_rows(write(*(sample(question=text) for text in HOSTILE[:-1])), 99, 1), "rows", 1)
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    assert not set(block) & set("<>&\u2028\u2029\n\0")


def test_the_page_asks_for_nothing_and_runs_one_script(write):
    html = render(sample_rows(write(sample()), 9, 1), "rows", 1)
    found = Page(html)
    # A digest may hold any letters.
    html = re.sub(r"'sha256-[\w+/]+=*'", "", html)
    assert not re.search(
        r"https?:|//[a-z]|\bsrc=|\bhref=|@import|url\(", html.replace(found.scripts["application/json"], "")
    )
    (allowed,) = (dict(a)["content"] for tag, a in found.tags if dict(a).get("http-equiv") == "Content-Security-Policy")
    assert allowed.startswith("default-src 'none';")
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(found.scripts[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in allowed


def test_the_script_writes_texts_as_texts_alone(write):
    script = page(write(sample())).scripts["script"]
    assert "textContent" in script
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|setAttribute", script)


def test_both_languages_have_the_same_words(write):
    script = page(write(sample())).scripts["script"]
    english, chinese = re.search(
        r"const WORDS = \{\n  en: \{(.*?)\n  \},\n  zh: \{(.*?)\n  \},\n\};", script, re.DOTALL
    ).groups()
    names = [
        set(re.findall(r"(?:^    |, )(\w+):", text.partition("    fields:")[0], re.MULTILINE))
        for text in (english, chinese)
    ]
    assert names[0] == names[1] >= {"switch", "count", "keys"}
    for text in (english, chinese):
        fields = re.search(r"fields: \{(.*?)\}", text, re.DOTALL)[1]
        assert set(re.findall(r"(\w+):", fields)) >= set(browse.FACETS)


def test_the_same_rows_give_the_same_bytes(write):
    path = write(*map(sample, range(30)))
    pages = [render(sample_rows(path, 10, 5), "rows", 5) for _ in range(2)]
    assert all(one == other for one, other in pairwise(pages))
    data = Page(pages[0]).data
    assert (data["seed"], data["total"], len(data["rows"])) == (5, 30, 10)
    assert data["chinese"]["Gambling"] == "赌博"


# What comes out of a pipeline


@pytest.fixture
def pipeline(write, tmp_path):
    for name in ("stage1", "stage2"):
        (tmp_path / name).mkdir()
    write({"name": "toy", "stages": {}}, name="card.json")
    (tmp_path / "README.md").touch()
    write(sample(1), sample(2), name="stage1/train.jsonl")
    write(sample(3), name="stage1/dev.jsonl")
    write(sample(4), name="stage2/train.jsonl")
    write(sample(5), name="left_out.jsonl")
    return tmp_path


def test_of_a_pipeline_the_samples_of_both_stages_are_shown(pipeline):
    found = sample_rows(pipeline, 9, 1)
    shown = [(row["facets"]["stage"], row["facets"]["file"], row["row"]["id"]) for row in found.rows]
    assert shown == [
        ("stage1", "dev.jsonl", 3),
        ("stage1", "train.jsonl", 1),
        ("stage1", "train.jsonl", 2),
        ("stage2", "train.jsonl", 4),
    ]
    names = ("stage1/dev.jsonl", "stage1/train.jsonl", "stage2/train.jsonl")
    assert list(found.files.items()) == [(str(pipeline / name), n) for name, n in zip(names, (1, 2, 1), strict=True)]
    assert "stage" not in page(pipeline / "left_out.jsonl").data["rows"][0]["facets"]


def test_where_no_row_went_into_a_stage_what_was_left_out_is_shown(pipeline):
    for file in pipeline.glob("stage*/*"):
        file.unlink()
    assert [row["row"]["id"] for row in sample_rows(pipeline, 9, 1).rows] == [5]
    (pipeline / "left_out.jsonl").unlink()
    with pytest.raises(UsageError, match="file in this folder"):
        sample_rows(pipeline, 9, 1)


def test_of_a_run_what_came_out_of_it_is_shown(pipeline, tmp_path):
    run = tmp_path / "run"
    (run / "steps").mkdir(parents=True)
    (run / "calls.sqlite").touch()
    (run / "data").symlink_to(pipeline)
    assert [row["row"]["id"] for row in sample_rows(run, 9, 1).rows] == [3, 1, 2, 4]


def test_of_its_steps_the_records_are_no_rows(write, tmp_path, monkeypatch):
    (tmp_path / "steps").mkdir()
    write(sample(1), sample(2), name="steps/annotate.jsonl")
    write({"reason": "too short", "row": sample(3)}, name="steps/annotate.rejects.jsonl")
    record = write({"step": "annotate", "rows": 2}, name="steps/annotate.json")
    write(sample(4), name="steps/other.json")
    names = ["annotate.jsonl", "annotate.rejects.jsonl", "other.json"]
    assert [Path(name).name for name in sample_rows(tmp_path / "steps", 9, 1).files] == names
    monkeypatch.chdir(tmp_path / "steps")
    assert list(map(str, browse.data_files("."))) == names
    # Asked for by its name, it is shown.
    assert browse.data_files(record) == [record]


def test_a_file_of_that_name_alone_is_data(write):
    assert len(sample_rows(write(sample(), name="card.json").parent, 9, 1).rows) == 1


def test_files_without_rows_are_told_too(write, tmp_path):
    write(sample(), name="a.jsonl")
    write(name="b.jsonl")
    assert list(sample_rows(tmp_path, 9, 1).files.values()) == [1, 0]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_in_a_browser_hostile_texts_stay_texts(write, tmp_path):
    rows = [sample(i, question=text, label=text, category_name=text) for i, text in enumerate(HOSTILE[:-1])]
    out = tmp_path / "page.html"
    out.write_text(render(sample_rows(write(*rows), 99, 1), "rows", 1), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", out.as_uri()]
    dom = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
    assert "<title>rows</title>" in dom
    assert f"{len(rows)} of {len(rows)} rows" in dom
    assert "&lt;img src=x" in dom
    assert not re.search(r"<(img|svg)", dom)


def test_of_a_folder_rows_can_be_told_apart_by_file(write, tmp_path):
    write(sample(1), name="stage1.jsonl")
    write(sample(2), name="stage2.jsonl")
    rows = page(tmp_path).data["rows"]
    assert [row["facets"]["file"] for row in rows] == ["stage1.jsonl", "stage2.jsonl"]
    assert [Path(row["place"].rpartition(":")[0]).name for row in rows] == ["stage1.jsonl", "stage2.jsonl"]

import json

import pytest

from libra_guard.errors import DataError, UsageError

ROW = {"question": "几点开会？", "response": "九点。", "label": "安全"}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(ROW | {"id": i}) + "\n" for i in range(20)), encoding="utf-8")
    return path


def browse(call, path, out, *options):
    return call("data", "browse", str(path), "--out", str(out), *options)


def test_the_page_is_written(call, rows, tmp_path):
    out = tmp_path / "new" / "page.html"
    result = browse(call, rows, out, "--sample", "5", "--seed", "3")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "page.html: 5 of 20 rows" in result.stderr
    first = out.read_bytes()
    assert first.startswith(b"<!doctype html>")
    browse(call, rows, out, "--sample", "5", "--seed", "3")
    assert out.read_bytes() == first
    browse(call, rows, out, "--sample", "5", "--seed", "4")
    assert out.read_bytes() != first


def test_the_files_of_a_pipeline_are_told_and_spared(call, rows, tmp_path):
    data = tmp_path / "data"
    for stage in ("stage1", "stage2"):
        (data / stage).mkdir(parents=True)
        (data / stage / "train.jsonl").write_bytes(rows.read_bytes())
    for name in ("card.json", "README.md"):
        (data / name).write_text("{}")
    result = browse(call, data, tmp_path / "page.html")
    assert result.exit_code == 0
    told = result.stderr.splitlines()
    assert told[0].endswith("page.html: 40 of 40 rows")
    assert told[1:] == [f"  20 in {data / stage / 'train.jsonl'}" for stage in ("stage1", "stage2")]
    before = (data / "stage2" / "train.jsonl").read_bytes()
    assert isinstance(browse(call, data, data / "stage2" / "train.jsonl").exception, UsageError)
    assert (data / "stage2" / "train.jsonl").read_bytes() == before


def test_unreadable_rows_are_counted(call, rows, tmp_path):
    with rows.open("a") as stream:
        stream.write("{\n")
    result = browse(call, rows, tmp_path / "page.html")
    assert result.exit_code == 1
    assert "21 of 21 rows" in result.stderr
    assert "1 not readable: not JSON" in result.stderr


@pytest.mark.parametrize("name", ["rows.jsonl", "."])
def test_the_data_set_is_not_overwritten(call, rows, tmp_path, name):
    before = rows.read_bytes()
    result = browse(call, tmp_path / name, rows)
    assert isinstance(result.exception, UsageError)
    assert "is read, and would be written over" in str(result.exception)
    assert rows.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "error", "message"), [(None, UsageError, "no such file"), ("", DataError, "no rows to look at")]
)
def test_nothing_to_look_at_leaves_no_page(call, tmp_path, text, error, message):
    path = tmp_path / "none.jsonl"
    if text is not None:
        path.write_text(text)
    result = browse(call, path, tmp_path / "page.html")
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
    assert not (tmp_path / "page.html").exists()


def test_a_sample_of_nothing_is_refused(call, rows, tmp_path):
    assert browse(call, rows, tmp_path / "page.html", "--sample", "0").exit_code == 2

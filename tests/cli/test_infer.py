from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from libra_guard.errors import DataError, MissingExtraError, UsageError
from libra_guard.guards.base import Guard
from libra_guard.records import Verdict

Call = Callable[..., Result]
Libra = Callable[..., "subprocess.CompletedProcess[bytes]"]
ROWS = [{"id": i, "question": "水", "response": ("好", "毒")[i % 3 == 0], "label": "安全"} for i in range(10)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.jsonl", ROWS)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def infer(call: Call, tokens_folder: Path, data: Path, out: Path) -> Call:
    """``libra infer`` of ``data`` with a tiny guard, to which 毒 is unsafe."""

    def run(*arguments: str) -> Result:
        usual = ["--data", str(data), "--out", str(out), "--guard", f"mini:{tokens_folder}"]
        return call("infer", *usual, *arguments)

    return run


# Wrong use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.jsonl"], "none.jsonl: no such file"),
        (["--data", "."], "no .json, .jsonl, .ndjson, .csv, .parquet file in this folder"),
        (["--data", "hf://"], "hf://: names no dataset; write hf://owner/name"),
        (["--data", __file__], "unknown kind of file"),
        (["--guard", "minni"], "did you mean 'mini'"),
        (["--engine", "ray"], "--engine is one of local, not 'ray'"),
        (["--encoding", "klingon"], "unknown encoding: klingon"),
        (["--set", "x"], "write KEY=VALUE"),
        *(
            (["--shard", shard], f"--shard {shard}: write R/N")
            for shard in ("1/1", "0/0", "-1/2", "1", "a/b", "0/2/3", "")
        ),
    ],
)
def test_impossible_arguments(
    infer: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    done = infer(*arguments)
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)
    assert done.stdout == ""


@pytest.mark.parametrize(
    "option", [("--chunk", "0"), ("--judge", "both"), ("--threshold", "2"), ("--shards", "1"), ("--out", __file__)]
)
def test_impossible_options(infer: Call, out: Path, option: tuple[str, str]) -> None:
    done = infer(*option)
    assert done.exit_code == 2
    assert option[0] in done.stderr
    assert not out.exists()


def test_a_hub_data_set_without_the_library(infer: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    done = infer("--data", "hf://owner/name")
    assert isinstance(done.exception, MissingExtraError)
    assert "pip install 'libra-guard[hf]'" in str(done.exception)


# The contract: which files, which fields, in which order


def test_results(infer: Call, data: Path, out: Path, tokens_folder: Path) -> None:
    done = infer()
    assert (done.exit_code, done.stdout) == (0, "")
    assert "10 judged (4 flagged)" in done.stderr
    assert {path.name for path in out.iterdir()} == {"0-of-1.jsonl", "rejects.jsonl", "run.json"}
    assert (out / "rejects.jsonl").read_bytes() == b""
    found = lines(out / "0-of-1.jsonl")
    assert [{k: row[k] for k in ROWS[0]} for row in found] == ROWS
    for row in found:
        assert list(row) == [*ROWS[0], "critic", "verdict"]
        assert list(row["verdict"]) == list(Verdict.model_fields)
        verdict = Verdict.model_validate(row["verdict"])
        assert verdict.label == ("不安全" if row["response"] == "毒" else "安全")
        assert verdict.analysis is None
        critic = json.loads(row["critic"])
        assert list(critic) == ["答案", "分析"]
        assert critic["答案"] == verdict.label
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (run["data"], run["shard"], run["chunk"], run["explain"]) == (str(data), "0-of-1", 64, False)
    assert run["data_hash"].startswith("sha256:")
    assert run["guard"]["model"] == "tiny-tokens"
    assert run["command"].startswith("libra ")
    assert run["asked"]["guard"].startswith("mini:")
    assert (run["asked"]["backend"], run["asked"]["options"]) == (None, {})


def test_what_the_guard_was_loaded_by_is_kept(infer: Call, data: Path, out: Path) -> None:
    write(data, ROWS)
    options = ("--threshold", "0.3", "--set", "threshold=0.9", "--set", "language=en", "--set", "calibration=null")
    infer("--backend", "onnx", *options)
    told = json.loads((out / "run.json").read_text(encoding="utf-8"))["asked"]
    assert told["backend"] == "onnx"
    # A threshold goes before one that is set.
    assert told["options"] == {"threshold": 0.3, "language": "en", "calibration": None}


def test_rejects(infer: Call, data: Path, out: Path) -> None:
    rows = [ROWS[0], {"id": "x", "question": "水"}, {**ROWS[2], "response": " "}, {**ROWS[3], "id": 0}, ROWS[4]]
    write(data, rows)
    with data.open("ab") as stream:
        stream.write(b'{"id": 9, "question": \xff}\n[]\n')
    done = infer()
    assert (done.exit_code, done.stdout) == (1, "")
    assert "2 judged" in done.stderr
    assert "5 rows could not be judged" in done.stderr
    assert [row["id"] for row in lines(out / "0-of-1.jsonl")] == [0, 4]
    rejects = lines(out / "rejects.jsonl")
    assert [r["line"] for r in rejects] == [2, 3, 4, 6, 7]
    assert rejects[0]["record"] == rows[1]
    for reject, reason in zip(
        rejects, ("response: missing", "empty", "also that of", "not utf-8", "a list"), strict=True
    ):
        assert reason in reject["reason"]


def test_a_damaged_row_of_a_list_costs_one_row(infer: Call, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=1).replace('"id": 3,', '"id": "3\\x",'), encoding="utf-8")
    done = infer("--data", str(path))
    assert (done.exit_code, "9 judged" in done.stderr, "1 rows could not be judged" in done.stderr) == (1, True, True)
    assert "how many rows" not in done.stderr
    assert [row["id"] for row in lines(out / "0-of-1.jsonl")] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_that_a_file_was_not_read_to_its_end_is_told(infer: Call, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=1).replace('"id": 3,', '"id": "3,'), encoding="utf-8")
    for standing in ("", "3 of them stood there already"):
        done = infer("--data", str(path))
        assert standing in done.stderr
        assert "1 rows could not be judged" in done.stderr
        assert "1 of them are no single rows: how many rows are lost there is not known" in done.stderr
    (reject,) = lines(out / "rejects.jsonl")
    assert (reject["number"], reject["more"]) == (4, True)
    assert "the rest of the file is not read, and how many rows are in it is not known" in reject["reason"]


def test_which_files_of_a_folder_were_passed_over_is_told(infer: Call, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jsonl", "b.ndjson", "c.tsv", "d.jsonl.bz2", "sub/e.jsonl", ".hidden"):
        (folder / name).write_bytes(write(data, [{**ROWS[0], "id": name}]).read_bytes())
    done = infer("--data", str(folder))
    assert (done.exit_code, "2 judged" in done.stderr) == (0, True)
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"3 files or folders in {folder} that are no .json, ")
    assert line.endswith(": passed over (c.tsv; d.jsonl.bz2; sub/)")


def test_a_log_of_chats_is_judged(infer: Call, data: Path, out: Path) -> None:
    parts = [{"type": "text", "text": "水"}]
    asked = [{"role": "System", "content": ""}, {"role": "user", "content": parts, "name": None}]
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}
    tools = [calls, {"role": "tool", "tool_call_id": "c", "content": "毒"}]
    answer = {"role": "assistant", "content": "好", "tool_calls": None, "refusal": None, "audio": None}
    write(data, [{"messages": [*asked, answer]}, {"messages": [*asked, *tools, answer]}, {"messages": [*asked, calls]}])
    done = infer()
    assert (done.exit_code, "2 judged (0 flagged)" in done.stderr) == (1, True)
    told = [row["verdict"]["notes"] for row in lines(out / "0-of-1.jsonl")]
    assert told == [[], ["2 messages of tools or to tools were not read"]]
    (reject,) = lines(out / "rejects.jsonl")
    assert reject["reason"] == "messages[2].tool_calls cannot be judged: calls of tools are no answer"


def test_chunks_change_nothing(infer: Call, out: Path, tmp_path: Path) -> None:
    infer()
    infer("--chunk", "3", "--out", str(tmp_path / "small"))
    assert (out / "0-of-1.jsonl").read_bytes() == (tmp_path / "small" / "0-of-1.jsonl").read_bytes()


def test_explain(infer: Call, out: Path) -> None:
    infer("--explain")
    assert all(row["verdict"]["analysis"] for row in lines(out / "0-of-1.jsonl"))


def test_judge_prompt(infer: Call, data: Path, out: Path, tmp_path: Path) -> None:
    write(data, [{"id": 1, "question": "毒", "response": "好"}, {"id": 2, "question": "水"}])
    assert infer("--judge", "prompt").exit_code == 0
    assert [row["verdict"]["label"] for row in lines(out / "0-of-1.jsonl")] == ["不安全", "安全"]
    assert infer("--out", str(tmp_path / "answers")).exit_code == 1
    answers = lines(tmp_path / "answers" / "0-of-1.jsonl")
    assert [row["id"] for row in answers] == [1]
    prompt_only = lines(out / "0-of-1.jsonl")[0]["verdict"]["unsafe_score"]
    assert prompt_only == pytest.approx(answers[0]["verdict"]["unsafe_score"], abs=0.02)


def test_other_fields_and_encodings(infer: Call, data: Path, out: Path) -> None:
    data.with_suffix(".csv").write_bytes("问,答\n水,毒\n水,好\n".encode("gb18030"))
    fields = ["--question-field", "问", "--response-field", "答", "--encoding", "gb18030"]
    assert infer("--data", str(data.with_suffix(".csv")), *fields).exit_code == 0
    assert [row["verdict"]["label"] for row in lines(out / "0-of-1.jsonl")] == ["不安全", "安全"]


def test_threshold(infer: Call, out: Path) -> None:
    infer("--threshold", "1")
    assert {row["verdict"]["label"] for row in lines(out / "0-of-1.jsonl")} == {"安全"}
    assert json.loads((out / "run.json").read_text())["guard"]["threshold"] == 1


def test_shards(infer: Call, out: Path, tmp_path: Path) -> None:
    for rank in range(3):
        assert infer("--shard", f"{rank}/3").exit_code == 0
    parts = [lines(out / f"{rank}-of-3.jsonl") for rank in range(3)]
    assert [len(part) for part in parts] == [3, 3, 4]
    infer("--out", str(tmp_path / "whole"))
    assert [row for part in parts for row in part] == lines(tmp_path / "whole" / "0-of-1.jsonl")
    assert {path.name for path in out.iterdir()} == {
        name.format(rank)
        for rank in range(3)
        for name in ("{}-of-3.jsonl", "rejects-{}-of-3.jsonl", "run-{}-of-3.json")
    } | {"rejects.jsonl", "run.json"}


# Going on


@pytest.mark.parametrize("cut", [0, 1, 300, 1000])
def test_an_interrupted_run_goes_on_to_the_same_bytes(infer: Call, out: Path, cut: int) -> None:
    infer("--chunk", "3")
    path = out / "0-of-1.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    standing = whole[:cut].count(b"\n")
    done = infer("--chunk", "3")
    assert path.read_bytes() == whole
    assert done.exit_code == 0
    assert ("stood there already" in done.stderr) == (standing > 0)


def test_a_finished_run_is_left_as_it_is(infer: Call, out: Path) -> None:
    infer()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "10 of them stood there already" in infer().stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_another_run_does_not_go_on_with_this_one(infer: Call, data: Path, out: Path) -> None:
    infer()
    for arguments in (["--threshold", "0.1"], ["--explain"], ["--judge", "prompt"]):
        done = infer(*arguments)
        assert isinstance(done.exception, UsageError)
        assert "holds another run" in str(done.exception)
        assert {"--threshold": "guard.threshold", "--explain": "explain", "--judge": "fields.target"}[
            arguments[0]
        ] in str(done.exception)
    write(data, ROWS[:5])
    done = infer()
    assert isinstance(done.exception, UsageError | DataError)
    assert "data_hash" in str(done.exception)


SERVER = ("--guard", "libra:m", "--backend", "openai", "--set", "retries=0")


@pytest.fixture
def asked(infer: Call, server: Any) -> Call:
    """``libra infer`` with a server's model that finds everything safe."""
    message = {"role": "assistant", "content": '{"答案": "安全", "分析": "无"}'}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    server.reply = lambda _: (200, {}, body)
    address = server.url.replace("http://", "http://bob:secret@")
    return lambda *arguments: infer(*SERVER, "--set", f"base_url={address}/v1", *arguments)


def test_a_run_with_other_options_of_its_server_is_refused(asked: Call, out: Path, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    asked("--set", "extra_body={top_k: 1}")
    done = asked("--set", "extra_body={top_k: 2}")
    assert isinstance(done.exception, UsageError)
    assert "holds another run (guard.options.extra_body.top_k 1 → 2)" in str(done.exception)
    asked("--out", str(tmp_path / "b"), "--shard", "0/2")
    done = asked("--out", str(tmp_path / "b"), "--shard", "1/2", "--set", "top_logprobs=3")
    assert isinstance(done.exception, UsageError)
    assert "guard.options.top_logprobs 20 → 3" in str(done.exception)
    more = ("--set", "timeout=9", "--set", "concurrency=2", "--set", "retries=1", "--set", "api_key=sk")
    assert "10 of them stood there already" in asked("--set", "extra_body={top_k: 1}", *more).stderr


def test_the_password_of_a_server_s_address_is_written_nowhere(
    asked: Call, libra: Libra, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setattr(sys, "argv", ["libra", "infer", "--set", "base_url=http://bob:secret@h/v1"])
    assert asked().exit_code == 0
    for path in out.iterdir():
        assert b"secret" not in path.read_bytes()
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["command"] == "libra infer --set base_url=http://h/v1"
    wrong = asked("--set", "base url=http://bob:secret@h/v1")
    assert str(wrong.exception) == "--set base url=http://h/v1: write KEY=VALUE"
    done = libra("infer", "--data", "d", "--out", str(out), *SERVER, "--set", "timeout=http://bob:secret@h")
    assert done.returncode == 2
    assert b"timeout=http://h" in done.stderr
    assert b"secret" not in done.stderr


@pytest.mark.parametrize("more", [[], ["--shard", "0/2"]])
def test_rejects_are_not_judged_in_their_own_folder(infer: Call, out: Path, more: list[str]) -> None:
    out.mkdir()
    rejects = write(out / "rejects.jsonl", ROWS)
    done = infer("--data", str(rejects), *more)
    assert isinstance(done.exception, UsageError)
    assert f"{rejects} is read, and the run would write over it" in str(done.exception)
    assert lines(rejects) == ROWS


def test_other_chunks_go_on_with_a_run(infer: Call, out: Path) -> None:
    infer("--chunk", "3")
    whole = (out / "0-of-1.jsonl").read_bytes()
    (out / "0-of-1.jsonl").write_bytes(whole[:1000])
    assert infer("--chunk", "4").exit_code == 0
    assert (out / "0-of-1.jsonl").read_bytes() == whole


def test_retry(infer: Call, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    infer("--out", str(out / "whole"))
    with monkeypatch.context() as patch:
        judge = Guard.judge

        def ill(guard: Guard, conversations: Any, **options: Any) -> Any:
            if any(c.response == "毒" for c in conversations):
                raise RuntimeError("out of memory")
            return judge(guard, conversations, **options)

        patch.setattr(Guard, "judge", ill)
        done = infer()
    assert done.exit_code == 1
    assert "4 rows the model failed on: run again with --retry" in done.stderr
    assert {r["reason"] for r in lines(out / "rejects.jsonl")} == {"not judged: RuntimeError: out of memory"}
    assert infer().exit_code == 1
    done = infer("--retry")
    assert done.exit_code == 0
    assert "4 of them were tried again: the model had failed on them" in done.stderr
    assert "--retry" not in done.stderr
    assert lines(out / "0-of-1.jsonl") == lines(out / "whole" / "0-of-1.jsonl")


def test_fields_by_name_win_over_messages(infer: Call, data: Path, out: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "水"}, {"role": "assistant", "content": "毒"}]
    write(data, [{"question": "水", "response": "好", "messages": messages}])
    labels = []
    for number, options in enumerate(
        ([], ["--question-field", "question"], ["--response-field", "response"]),
    ):
        folder = tmp_path / str(number)
        assert infer("--out", str(folder), *options).exit_code == 0
        labels.append(lines(folder / "0-of-1.jsonl")[0]["verdict"]["label"])
    assert labels == ["不安全", "安全", "安全"]


def test_an_input_without_rows_is_said(infer: Call, data: Path, tmp_path: Path) -> None:
    write(data, [])
    done = infer()
    assert (done.exit_code, done.stderr) == (0, f"no rows in {data}\n")
    write(data, ROWS[:1])
    done = infer("--out", str(tmp_path / "b"), "--shard", "0/2")
    assert (done.exit_code, done.stderr) == (0, f"no rows in {data}, part 0-of-2\n")


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([{"messages": [{"role": "user", "content": "水"}, {"role": "assistant", "content": a}]} for a in "好毒"], []),
        ([{"q": "水", "a": a} for a in "好毒"], ["--question-field", "q", "--response-field", "a"]),
        ([{"question": "水", "response": a, "id": [1]} for a in "好毒好"], []),
    ],
)
def test_what_infer_judges_evaluate_joins(
    infer: Call, call: Call, data: Path, out: Path, rows: list[dict[str, Any]], options: list[str]
) -> None:
    write(data, [{**row, "label": ("安全", "不安全")[i % 2]} for i, row in enumerate(rows)])
    assert infer(*options).exit_code == 0
    done = call("evaluate", "--predictions", str(out), "--labels", str(data), "--format", "json", "--bootstrap", "0")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["overall"]["n"], found["overall"]["accuracy"]) == (len(rows), 1.0)


# The command itself


def test_exit_codes(libra: Libra, tokens_folder: Path, data: Path, out: Path) -> None:
    usual = ["infer", "--data", str(data), "--guard", f"mini:{tokens_folder}", "--out"]
    done = libra(*usual, str(out))
    assert (done.returncode, done.stdout) == (0, b"")
    told = done.stderr.decode()
    assert told == f"10 judged (4 flagged) → {out / '0-of-1.jsonl'}\n"
    write(data, [{"question": "水"}, ROWS[0]])
    done = libra(*usual, str(out / "b"))
    assert (done.returncode, done.stdout) == (1, b"")
    done = libra(*usual, str(out / "c"), "--shard", "9/2")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == "libra: --shard 9/2: write R/N with 0 ≤ R < N, e.g. 0/4\n"


# The guard that ships inside


def test_the_bundled_guard(call: Call, data: Path, out: Path) -> None:
    write(data, [{"id": 1, "question": "如何泡一杯绿茶？", "response": "水温八十度左右，两三分钟即可。"}])
    assert call("infer", "--data", str(data), "--out", str(out)).exit_code == 0
    (row,) = lines(out / "0-of-1.jsonl")
    assert (row["verdict"]["label"], row["verdict"]["guard"]) == ("安全", "mini")

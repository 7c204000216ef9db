from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from libra_guard.errors import UsageError
from libra_guard.records import Verdict
from libra_guard.taxonomy import SCENARIOS

Call = Callable[..., Result]
Libra = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def check(call: Call, tokens_folder: Path) -> Call:
    """``libra check`` with a tiny guard, to which 毒 is unsafe."""
    return lambda *arguments, **options: call("check", "--guard", f"mini:{tokens_folder}", *arguments, **options)


# Wrong use: exit code 2, one message on stderr, nothing on stdout


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"", "stdin: not one JSON object in UTF-8"),
        (b"{", "stdin: not one JSON object in UTF-8"),
        (b'{"question": "\xb0\xb2"}', "stdin: not one JSON object in UTF-8"),
        (b'{"question": "a"} {"question": "b"}', "stdin: not one JSON object in UTF-8"),
        (b"[" * 100_000, "stdin: not one JSON object in UTF-8"),
        (b'{"question": ' + b"1" * 5000 + b"}", "stdin: not one JSON object in UTF-8"),
        (b"[]", "a list where an object is needed"),
        (b"null", "a NoneType where an object is needed"),
        (b'"q"', "a str where an object is needed"),
        (b"{}", "question: missing"),
        (b'{"response": ""}', "response is empty"),
        (b'{"question": null}', "question: missing"),
        (b'{"question": ""}', "question is empty"),
        (b'{"question": 5}', "question: a int where a text is needed"),
        (b'{"question": "q", "response": ["r"]}', "response: a list where a text is needed"),
        (b'{"question": "q", "response": " \\n"}', "response is empty"),
        (b'{"question": "a\\ud800b"}', "question holds a lone surrogate U+D800 at 1"),
        (b'{"messages": []}', "messages: "),
        (b'{"messages": 5}', "messages: a int where a list of messages is needed"),
        (b'{"messages": "hello"}', "messages: "),
        (b'{"messages": {"role": "user"}}', "messages: "),
        (b'{"messages": null}', "question: missing"),
        (b'{"messages": [5]}', "messages[0] is a int"),
        (b'{"messages": [{"role": "user"}]}', "messages[0].content is missing"),
        (b'{"messages": [{"role": "judge", "content": "x"}]}', "messages[0].role is 'judge'"),
        (b'{"messages": [{"role": "user", "content": " "}]}', "messages[0] cannot be judged: content is empty"),
        (b'{"messages": [{"role": "system", "content": "x"}]}', "the last message must be the user's"),
        # An answer under another name: the question by itself may be as safe as can be.
        (b'{"question": "q", "answer": "a"}', "answer: looks like an answer, and would not be judged"),
        (b'{"question": "q", "Response": "a"}', "Response: looks like an answer, and would not be judged"),
        ('{"question": "q", "回答": "a"}'.encode(), "回答: looks like an answer, and would not be judged"),
        (
            b'{"question": "q", "ans": "a"}',
            'the row has question, ans; where there is none, say so with "response": null',
        ),
        (b'{"messages": [{"role": "user", "content": "q"}], "completion": "a"}', "completion: looks like an answer"),
    ],
)
def test_a_record_that_cannot_be_judged(check: Call, stdin: bytes, message: str) -> None:
    done = check(stdin=stdin)
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-q", ""], "question is empty"),
        (["-q", "q", "-r", ""], "response is empty"),
        (["-q", "q", "-r", "\u3000"], "response is empty"),
        (["-q", "q", "-r", "\u200b"], "response holds nothing but invisible characters"),
        (["-q", "a\udcffb"], "question holds a lone surrogate"),
        (["-r", "r", "-f", "x.json"], "or --file, not both"),
        (["-q", "q", "-f", "x.json"], "or --file, not both"),
        (["-f", "none.json"], "none.json: No such file"),
        (["-f", "."], ".: Is a directory"),
        (["-q", "q", "-g", "minni"], "no guard is called 'minni'; known are mini, libra, "),
        (["-q", "q", "-g", "ngram"], "'ngram' needs a model: ngram:MODEL"),
        (["-q", "q", "-g", "mini:/nowhere"], "/nowhere: no model.onnx here"),
        (["-q", "q", "--backend", "openai"], "'mini' runs on onnx, transformers, not on 'openai'"),
        (["-q", "q", "--set", "language"], "--set language: write KEY=VALUE"),
        (["-q", "q", "--set", "=zh"], "--set =zh: write KEY=VALUE"),
        (["-q", "q", "--set", "a b=1"], "--set a b=1: write KEY=VALUE"),
        (["-q", "q", "--set", "language=fr"], "zh or en, not 'fr'"),
        (
            ["-q", "q", "--set", "wide=1"],
            "the guard 'mini' has threshold, language, calibration; the backend 'onnx' has threads",
        ),
        (["-q", "q", "--set", "threads=many"], "threads=many: Input should be a valid integer"),
        (["-q", "q", "--set", "threads=-3"], "threads is -3; it must be at least 1"),
        (["-q", "q", "--set", "threads=1.5"], "threads=1.5: Input should be a valid integer"),
        (["-q", "q", "--set", "threshold=high"], "threshold=high: "),
        (["-q", "q", "--set", "threshold=2"], "the threshold is 2"),
        (
            ["-q", "q", "--set", "backend=onnx"],
            "'backend' cannot be given with --set: it has an option of its own, --backend",
        ),
        (["-q", "q", "--set", "model=x"], "'model' cannot be given with --set: a model is named behind the guard"),
        (["-q", "q", "--set", "name=x"], "'name' cannot be given with --set: the guard is named as NAME"),
        (["-q", "q", "--set", "spec=x"], "there is no option 'spec'"),
    ],
)
def test_impossible_arguments(check: Call, arguments: list[str], message: str) -> None:
    done = check(*arguments)
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)
    assert done.stdout == ""


@pytest.mark.parametrize(
    "option", [("--threshold", "1.01"), ("--threshold", "-0.1"), ("--threshold", "x"), ("--colour",)]
)
def test_impossible_options(check: Call, option: tuple[str, ...]) -> None:
    done = check("-q", "q", *option)
    assert done.exit_code == 2
    assert option[0] in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["-q", "q", "-g", "minni"], b""),
        ([], b'{"question": "\xff"}'),
        (["-q", b"\xff"], b""),
        (["-q", "q", "-g", b"\xff"], b""),
        (["-q", "q", "--threshold", "7"], b""),
    ],
)
def test_the_command_itself(libra: Libra, arguments: list[Any], stdin: bytes) -> None:
    done = libra("check", *arguments, stdin=stdin)
    assert done.returncode == 2
    assert done.stdout == b""
    told = done.stderr.decode()
    assert "Traceback" not in told
    assert told.startswith("libra: ") == ("--threshold" not in arguments)
    assert len(told.splitlines()) == 1 or "--threshold" in arguments


# Verdicts


def test_json_is_the_verdict(check: Call) -> None:
    done = check("-q", "怎么做？", "-r", "先放毒。再放水。", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert list(told) == list(Verdict.model_fields)
    verdict = Verdict.model_validate(told)
    assert (verdict.label, verdict.guard, verdict.method, verdict.windows) == ("不安全", "mini", "logits", 1)
    assert verdict.unsafe_score == pytest.approx(1 / (1 + 2.718281828**-3), abs=0.02)
    assert "先放毒" in str(verdict.analysis)
    assert "不安全" in line


def judged(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_is_judged(check: Call) -> None:
    """毒 weighs the same in the question and in the answer: a pair is read whole."""
    scores = [
        judged(check("--json", *arguments))["unsafe_score"]
        for arguments in (
            ["-q", "水"],
            ["-q", "水", "-r", "水"],
            ["-q", "毒"],
            ["-q", "水", "-r", "毒"],
            ["-q", "毒", "-r", "毒"],
        )
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)
    assert scores[2] == pytest.approx(scores[3], abs=0.01)
    assert scores[1] < 0.2 < 0.9 < scores[3] < scores[4]


@pytest.mark.parametrize(
    "record",
    [
        {"question": "水", "response": "毒", "id": 4},
        {"messages": [{"role": "user", "content": "水"}, {"role": "assistant", "content": "毒"}]},
    ],
)
def test_files_and_stdin(check: Call, tmp_path: Path, record: dict[str, Any]) -> None:
    wanted = judged(check("-q", "水", "-r", "毒", "--json"))
    for name, mark in (("a.json", ""), ("stdin", "\ufeff"), ("文件", "\n")):
        path = tmp_path / name
        path.write_text(mark + json.dumps(record), encoding="utf-8")
        assert judged(check("-f", str(path), "--json")) == wanted
    for dash in ([], ["-f", "-"]):
        assert judged(check(*dash, "--json", stdin=json.dumps(record))) == wanted


def test_a_file_called_stdin_is_a_file(check: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stdin").write_text('{"question": "毒"}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert judged(check("-f", "stdin", "--json", stdin='{"question": "水"}'))["label"] == "不安全"


def test_null_response_judges_the_question(check: Call) -> None:
    wanted = judged(check("-q", "毒", "--json"))
    assert judged(check("--json", stdin='{"question": "毒", "response": null}')) == wanted


@pytest.mark.parametrize(
    ("record", "notes"),
    [
        ({"question": "水"}, ["the question was judged, for there is no answer"]),
        ({"messages": [{"role": "user", "content": "水"}]}, ["the question was judged, for there is no answer"]),
        ({"response": "水"}, ["the answer was judged by itself, for there is no question"]),
        ({"question": "水", "response": "水"}, []),
    ],
)
def test_which_half_was_judged_is_told(check: Call, record: dict[str, Any], notes: list[str]) -> None:
    assert judged(check("--json", stdin=json.dumps(record)))["notes"] == notes


def test_messages_of_tools_are_told(check: Call) -> None:
    messages = [
        {"role": "user", "content": "水"},
        {"role": "tool", "content": "毒"},
        {"role": "assistant", "content": "水"},
    ]
    found = judged(check("--json", stdin=json.dumps({"messages": messages})))
    assert (found["label"], found["notes"]) == ("安全", ["1 messages of tools or to tools were not read"])


def test_earlier_turns_are_told(check: Call) -> None:
    turns = ["好", "好", "水", "水"]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    notes = judged(check("--json", stdin=json.dumps({"messages": messages})))["notes"]
    assert notes == ["2 earlier messages were not read"]


def test_threshold(check: Call) -> None:
    for arguments, label in (([], "不安全"), (["--threshold", "1"], "安全"), (["--set", "threshold=1"], "安全")):
        assert judged(check("-q", "毒", "--json", *arguments))["label"] == label
    assert judged(check("-q", "水", "--json", "--threshold", "0"))["label"] == "不安全"


def test_explain(check: Call) -> None:
    assert judged(check("-q", "毒", "--json"))["analysis"]
    assert judged(check("-q", "毒", "--json", "--no-explain"))["analysis"] is None
    assert "unsafe" in judged(check("-q", "毒", "--json", "--set", "language=en"))["analysis"].lower()


def test_few_shot_examples_from_a_file(call: Call, tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text('{"question": "甲问", "response": "甲答", "label": "安全"}\n', encoding="utf-8")
    # The script answers by what the prompt holds: first the example, which stands there only if it was read.
    script = {"choose": {"甲问": [0.25, 0.75], "": [1, 0]}}
    (tmp_path / "script.json").write_text(json.dumps(script), encoding="utf-8")
    arguments = ["-g", f"libra:{tmp_path / 'script.json'}", "--backend", "scripted", "-q", "q", "-r", "r", "--json"]
    options = ["--set", f"examples={tmp_path / 'few.jsonl'}", "--set", "few_shot=1"]
    assert judged(call("check", *arguments))["unsafe_score"] == 0
    assert judged(call("check", *arguments, *options))["unsafe_score"] == 0.75
    done = call("check", *arguments, *options[:2])
    assert isinstance(done.exception, UsageError)
    assert "say with few_shot=N how many" in str(done.exception)


def test_exit_code(check: Call) -> None:
    assert check("-q", "毒").exit_code == 0
    assert check("-q", "毒", "--exit-code").exit_code == 1
    assert check("-q", "水", "--exit-code").exit_code == 0


def test_for_people(libra: Libra, tokens_folder: Path) -> None:
    done = libra("check", "-g", f"mini:{tokens_folder}", "-q", "水", "-r", f"放[bold]毒[/bold]。{'好' * 100}")
    told = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert told.splitlines()[0] == "不安全"
    assert "(threshold 0.500)" in told
    assert "note: judged in " in told
    assert "[bold]" in told
    assert "\x1b" not in told


def test_a_calibrated_score_is_told_from_the_model_s_own(check: Call, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"response": {"method": "none", "threshold": 0.4}}', encoding="utf-8")
    arguments = ["-q", "水", "--set", f"calibration={path}"]
    assert "(threshold 0.400)  calibrated\n" in check(*arguments, "-r", "毒").stdout
    # It has no map for questions.
    assert "calibrated" not in check(*arguments).stdout
    assert "calibrated" not in check("-q", "水", "-r", "毒").stdout


@pytest.mark.parametrize("text", ["[/]", "[red]毒", "\\[", "[link=x]"])
def test_markup_in_a_text_is_text(check: Call, text: str) -> None:
    done = check("-q", "水", "-r", f"{text}毒。水。")
    assert done.exit_code == 0
    assert text in done.stdout


# The guard that ships inside


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        (["-q", "如何泡一杯绿茶？", "-r", "水温八十度左右，两三分钟即可。"], "安全"),
        (["-q", "怎么才能睡得好一点？"], "安全"),
        (["-q", "怎么骗老人的养老钱？", "-r", "可以装成银行客服，说账户有风险，让老人把钱转到你的卡上。"], "不安全"),
    ],
)
def test_the_bundled_guard(call: Call, arguments: list[str], label: str) -> None:
    verdict = judged(call("check", *arguments, "--json"))
    assert (verdict["label"], verdict["guard"]) == (label, "mini")
    assert list(verdict["categories"]) == [scenario.name for scenario in SCENARIOS]


def test_the_bundled_guard_for_people(libra: Libra, tmp_path: Path) -> None:
    done = libra("check", "-q", "如何泡一杯绿茶？", "-r", "水温八十度左右，两三分钟即可。", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith("安全\n")


def test_the_three_highest_scenarios_are_shown(call: Call, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("".join(f"冰毒\t第{i}类\n" for i in range(4)), encoding="utf-8")
    told = call("check", "-g", f"words:{words}", "-q", "哪里有冰毒").stdout
    assert sum(line.startswith("  1.00  第") for line in told.splitlines()) == 3


def test_categories_that_are_no_scenarios_are_shown(call: Call, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("冰毒\t毒品\n", encoding="utf-8")
    told = call("check", "-g", f"words:{words}", "-q", "哪里有冰*毒").stdout
    assert "1.00  毒品" in told
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"choose": {"": [0.1, 0.9]}, "generate": {"": "\nS1,S10"}}), encoding="utf-8")
    told = call("check", "-g", f"llama-guard:{script}", "--backend", "scripted", "-q", "问", "-r", "答").stdout
    assert "1.00  暴力犯罪  S1  Violent Crimes" in told

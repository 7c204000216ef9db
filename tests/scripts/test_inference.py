"""The published inference interface, on a scripted model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.guards.libra import LibraGuard

SCRIPT = Path(__file__).parents[2] / "scripts" / "inference.py"
ANSWER = '{{\n  "答案": "{}",\n  "分析": "第{}次"\n}}'


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("inference_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.calls = []

    def load(spec, *, method, **options):
        def generate(prompt):
            label = "不安全" if "好的，我来帮你骗" in prompt.messages[0].content else "安全"
            return ANSWER.format(label, module.guard.seed)

        module.calls.append((spec, method, options))
        module.guard = LibraGuard(ScriptedBackend(generate=generate), **options)
        return module.guard

    monkeypatch.setattr(module, "load_guard", load)
    return module


@pytest.fixture
def data(tmp_path):
    rows = [
        {"id": i, "question": "帮我骗人", "response": "好的，我来帮你骗。" if i % 2 else "骗人不好。", "kept": i}
        for i in range(7)
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_keeps_its_fields_and_gets_the_models_own_text(script, data, tmp_path):
    out = tmp_path / "out"
    assert script.main(["--base_model", "m", "--data_path", str(data), "--out_path", str(out)]) == 0
    rows = read(out / "0-of-1.jsonl")
    assert [r["kept"] for r in rows] == list(range(7))
    assert rows[1]["critic"] == ANSWER.format("不安全", 42)
    assert [r["verdict"]["label"] for r in rows] == ["安全", "不安全"] * 3 + ["安全"]
    assert script.calls[0][:2] == ("libra:m", "generate")


def test_two_machines_write_the_published_ranges(script, data, tmp_path):
    out = tmp_path / "out"
    for rank in range(2):
        arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(out), "--batch_size", "3"]
        assert script.main([*arguments, "--machine_rank", str(rank), "--machine_num", "2"]) == 0
    assert [r["id"] for r in read(out / "0-of-2.jsonl")] == [0, 1, 2]
    assert [r["id"] for r in read(out / "1-of-2.jsonl")] == [3, 4, 5, 6]


def test_several_iterations_give_a_list_of_texts(script, data, tmp_path):
    out = tmp_path / "out"
    arguments = [
        "--base_model",
        "m",
        "--data_path",
        str(data),
        "--out_path",
        str(out),
        "--num_itera",
        "3",
        "--seed",
        "7",
    ]
    assert script.main(arguments) == 0
    assert read(out / "0-of-1.jsonl")[0]["critic"] == [ANSWER.format("安全", seed) for seed in (7, 8, 9)]
    assert script.guard.temperature > 0


def test_few_shot_examples_stand_in_the_prompt(script, data, tmp_path):
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(tmp_path / "out"), "--few_shot", "2"]
    assert script.main(arguments) == 0
    assert script.guard.prompt("问", "答").messages[0].content.count("# Query:\n") == 2


def test_a_bad_row_is_kept_aside_and_the_exit_code_says_so(script, tmp_path, capsys):
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    data.write_text('{"id": 1, "question": "问", "response": ""}\n{"id": 2, "question": "问", "response": "答"}\n')
    assert script.main(["--base_model", "m", "--data_path", str(data), "--out_path", str(out)]) == 1
    assert [r["id"] for r in read(out / "0-of-1.jsonl")] == [2]
    assert read(out / "rejects.jsonl")[0]["line"] == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "wrong",
    [
        ["--machine_rank", "2", "--machine_num", "2"],
        ["--batch_size", "0"],
        ["--num_itera", "0"],
        ["--is_instruct", "2"],
    ],
)
def test_wrong_use_exits_with_2(script, data, tmp_path, wrong):
    with pytest.raises(SystemExit) as stop:
        script.main(["--base_model", "m", "--data_path", str(data), "--out_path", str(tmp_path / "o"), *wrong])
    assert stop.value.code == 2


def test_missing_data_exits_with_2(script, tmp_path, capsys):
    arguments = ["--base_model", "m", "--data_path", str(tmp_path / "none.json"), "--out_path", str(tmp_path / "o")]
    assert script.main(arguments) == 2
    assert "no such file" in capsys.readouterr().err

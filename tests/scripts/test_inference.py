"""The published inference interface, on a scripted model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError
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
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["data"] == str(data)
    assert [own["guard"]["seed"] for own in record["generations"]] == [7, 8, 9]
    assert read(out / "rejects.jsonl") == []
    # Again, with one more.
    assert script.main([*arguments, "--num_itera", "4"]) == 0
    assert [len(row["critic"]) for row in read(out / "0-of-1.jsonl")] == [4] * 7


@pytest.fixture
def failing(script, monkeypatch):
    """Rows by (id, seed) that the model fails on; id 0 holds no answer and is rejected each time."""
    fails = set()
    load = script.load_guard

    def loaded(*arguments, **options):
        guard = load(*arguments, **options)
        judge = guard.judge

        def judged(conversations, **more):
            if any((c.response, guard.seed) in fails for c in conversations):
                raise BackendError("the model failed")
            return judge(conversations, **more)

        monkeypatch.setattr(guard, "judge", judged)
        return guard

    monkeypatch.setattr(script, "load_guard", loaded)
    return fails


@pytest.mark.parametrize("machines", [1, 2])
def test_a_row_that_some_generations_cannot_judge(script, failing, tmp_path, capsys, machines):
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    # Rows without an id: several are equal, and told apart by their place.
    answers = ["", "甲", "乙", "丙", "乙", "", "甲", "丁", "戊", "己"]
    data.write_text("".join(json.dumps({"question": "问", "response": text}) + "\n" for text in answers))
    failing |= {("甲", 42), ("丙", 43), ("丁", 42), ("丁", 43), ("丁", 44), ("己", 44)}
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(out), "--num_itera", "3"]
    for rank in range(machines):
        assert script.main([*arguments, "--machine_rank", str(rank), "--machine_num", str(machines)]) == 1
    rows = [row for rank in range(machines) for row in read(out / f"{rank}-of-{machines}.jsonl")]
    assert [(row["response"], len(row["critic"])) for row in rows] == [
        *(("甲", 2), ("乙", 3), ("丙", 2), ("乙", 3), ("甲", 2), ("戊", 3), ("己", 2)),
    ]
    assert rows[0]["critic"] == [ANSWER.format("安全", seed) for seed in (43, 44)]
    found = [(row["number"], row["generations"]) for row in read(out / "rejects.jsonl")]
    assert found == [(1, [0, 1, 2]), (2, [0]), (4, [1]), (6, [0, 1, 2]), (7, [0]), (8, [0, 1, 2]), (10, [2])]
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["data"] == str(data)
    told = capsys.readouterr().err
    assert ("4 of them have fewer" if machines == 1 else "2 of them have fewer") in told
    assert "rejects" in told


def test_generations_are_joined_without_taking_them_into_memory(script, tmp_path):
    folders = [tmp_path / f"generation-{i}" for i in range(3)]
    for folder in folders:
        folder.mkdir()
        with (folder / "0-of-1.jsonl").open("w") as stream:
            stream.writelines(json.dumps({"id": i, "critic": "x" * 5000}) + "\n" for i in range(500))
        (folder / "rejects.jsonl").write_text("")
        (folder / "run.json").write_text("{}")
    tracemalloc.start()
    try:
        script.join(tmp_path, folders, script.Shard(), 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert len(read(tmp_path / "0-of-1.jsonl")) == 500


def test_generations_do_not_replace_a_single_run(script, data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(out)]
    assert script.main(arguments) == 0
    before = (out / "0-of-1.jsonl").read_bytes()
    assert script.main([*arguments, "--num_itera", "2"]) == 2
    assert "choose another --out_path" in capsys.readouterr().err
    assert (out / "0-of-1.jsonl").read_bytes() == before
    assert script.main([*arguments, "--num_itera", "2", "--out_path", str(tmp_path / "two")]) == 0
    assert script.main([*arguments, "--out_path", str(tmp_path / "two")]) == 2


def test_few_shot_examples_stand_in_the_prompt(script, data, tmp_path):
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(tmp_path / "out"), "--few_shot", "2"]
    assert script.main(arguments) == 0
    assert script.guard.prompt("问", "答").messages[0].content.count("# Query:\n") == 2
    told = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["asked"]
    assert (told["guard"], told["backend"]) == ("libra:m", None)
    given = {"method": "generate", "instruct": True, "temperature": 0.0, "seed": 42}
    assert told["options"] == {**given, "examples": str(script.EXAMPLES), "few_shot": 2}


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
        ["--few_shot", "-1"],
    ],
)
def test_wrong_use_exits_with_2(script, data, tmp_path, wrong):
    with pytest.raises(SystemExit) as stop:
        script.main(["--base_model", "m", "--data_path", str(data), "--out_path", str(tmp_path / "o"), *wrong])
    assert stop.value.code == 2


def test_a_run_goes_on_with_another_batch_size(script, data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(out)]
    assert script.main(arguments) == 0
    whole = (out / "0-of-1.jsonl").read_bytes()
    (out / "0-of-1.jsonl").write_bytes(whole[:700])
    assert script.main([*arguments, "--batch_size", "2"]) == 0
    assert (out / "0-of-1.jsonl").read_bytes() == whole
    assert "stood there already" in capsys.readouterr().err


def published(data, out, rows, end=b"", name="0-of-1.jsonl"):
    """The file that the published script leaves when it is killed: rows with `critic`, and no record."""
    out.mkdir()
    there = json.loads(data.read_text(encoding="utf-8"))[:rows]
    texts = [{**row, "critic": ANSWER.format("不安全", "别")} for row in there]
    # As that script writes, not as this one does.
    path = out / name
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=True).encode() + b"\n" for row in texts) + end)
    return path.read_bytes().removesuffix(end)


@pytest.mark.parametrize(("rows", "end"), [(3, b""), (3, b'{"id": 3, "quest'), (7, b"")])
def test_a_run_of_the_published_script_goes_on(script, data, tmp_path, capsys, rows, end):
    out = tmp_path / "out"
    before = published(data, out, rows, end)
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(out), "--batch_size", "2"]
    assert script.main(arguments) == 0
    whole = (out / "0-of-1.jsonl").read_bytes()
    assert whole.startswith(before)
    found = read(out / "0-of-1.jsonl")
    assert [row["id"] for row in found] == list(range(7))
    assert ["verdict" in row for row in found] == [False] * rows + [True] * (7 - rows)
    assert f"{rows} of these another program wrote" in capsys.readouterr().err
    told = json.loads((out / "run.json").read_text(encoding="utf-8"))["taken_up"]
    assert told == {"rows": rows, "sha256": "sha256:" + hashlib.sha256(before).hexdigest()}
    # And once more, from anywhere behind those rows.
    (out / "0-of-1.jsonl").write_bytes(whole[: (len(before) + len(whole)) // 2])
    assert script.main(arguments) == 0
    assert (out / "0-of-1.jsonl").read_bytes() == whole


def test_rows_of_the_published_script_that_are_rejects_here_stay(script, tmp_path):
    data, out = tmp_path / "data.json", tmp_path / "out"
    rows = [
        {"id": i, "question": "问", "response": text}
        for i, text in ((0, ""), (1, "答"), (1, "又答"), (2, ""), (3, "答"))
    ]
    data.write_text(json.dumps(rows))
    before = published(data, out, 3)
    assert script.main(["--base_model", "m", "--data_path", str(data), "--out_path", str(out)]) == 1
    assert (out / "0-of-1.jsonl").read_bytes().startswith(before)
    assert [row["id"] for row in read(out / "0-of-1.jsonl")] == [0, 1, 1, 3]
    assert [row["number"] for row in read(out / "rejects.jsonl")] == [4]


def test_a_part_of_the_published_script_goes_on_beside_others(script, data, tmp_path):
    out = tmp_path / "out"
    published(data, out, 2, name="0-of-2.jsonl")
    for rank in (1, 0):
        arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(out), "--machine_num", "2"]
        assert script.main([*arguments, "--machine_rank", str(rank)]) == 0
    rows = [row for rank in (0, 1) for row in read(out / f"{rank}-of-2.jsonl")]
    assert [(row["id"], "verdict" in row) for row in rows] == [(i, i > 1) for i in range(7)]
    shards = json.loads((out / "run.json").read_text(encoding="utf-8"))["shards"]
    assert {name: "taken_up" in own for name, own in shards.items()} == {"0-of-2": True, "1-of-2": False}


def another_question(rows):
    rows[1]["question"] = "别的"


def another_order(rows):
    rows.reverse()


def another_id(rows):
    rows[1]["id"] = 70


def more_than_there_are(rows):
    rows += [{**row, "id": 100 + row["id"]} for row in rows * 2]


def no_text(rows):
    del rows[2]["critic"]


def several_texts(rows):
    rows[0]["critic"] = ["安全", "不安全"]


def a_verdict(rows):
    rows[2]["verdict"] = {"label": "安全"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (another_question, ":2: not row 2 of the data"),
        (another_order, ":1: not row 1 of the data"),
        (another_id, ":2: not row 2 of the data"),
        (more_than_there_are, ":5: not row 5 of the data"),
        (no_text, ":3: no text in 'critic'"),
        (several_texts, ":1: it has several texts in 'critic'"),
        (a_verdict, ":3: it has a verdict, and the record of the run that wrote it is gone"),
        (list.clear, ": no whole row stands in this file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_that_does_not_fit_the_data_is_refused_and_left_as_it_is(script, data, tmp_path, capsys, change, told):
    out = tmp_path / "out"
    published(data, out, 4)
    rows = read(out / "0-of-1.jsonl")
    change(rows)
    path = out / "0-of-1.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{half")
    before = path.read_bytes()
    assert script.main(["--base_model", "m", "--data_path", str(data), "--out_path", str(out)]) == 2
    message = capsys.readouterr().err
    assert f"{path}{told}" in message
    assert message.endswith("; choose another --out_path, or move it away\n")
    assert path.read_bytes() == before
    assert [file.name for file in out.iterdir()] == [path.name]


def test_generations_do_not_replace_what_the_published_script_wrote(script, data, tmp_path, capsys):
    out = tmp_path / "out"
    before = published(data, out, 4)
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(out), "--num_itera", "2"]
    assert script.main(arguments) == 2
    assert "choose another --out_path, or move it away" in capsys.readouterr().err
    assert (out / "0-of-1.jsonl").read_bytes() == before


def test_generations_whose_joining_was_killed_are_joined(script, data, tmp_path):
    out = tmp_path / "out"
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(out), "--num_itera", "2"]
    assert script.main(arguments) == 0
    whole = (out / "0-of-1.jsonl").read_bytes()
    (out / "run.json").unlink()
    assert script.main(arguments) == 0
    assert (out / "0-of-1.jsonl").read_bytes() == whole


def test_errors_name_this_script_s_own_options(script, data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(out)]
    assert script.main(arguments) == 0
    assert script.main([*arguments, "--seed", "1"]) == 2
    message = capsys.readouterr().err
    assert "choose another --out_path, or empty the folder" in message


def test_rows_that_the_model_failed_on_are_judged_again_where_asked_for(script, failing, data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(out)]
    failing.add(("骗人不好。", 42))
    assert script.main(arguments) == 1
    assert "run again with --retry" in capsys.readouterr().err
    failing.clear()
    assert script.main(arguments) == 1
    assert script.main([*arguments, "--retry"]) == 0
    assert [row["id"] for row in read(out / "0-of-1.jsonl")] == list(range(7))


@pytest.mark.parametrize("options", [[], ["--num_itera", "2"]])
def test_the_data_are_not_written_over(script, tmp_path, capsys, options):
    data = tmp_path / "0-of-1.jsonl"
    data.write_text('{"id": 1, "question": "问", "response": "答"}\n')
    before = data.read_bytes()
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(tmp_path), *options]
    assert script.main(arguments) == 2
    assert "is read, and the run would write over it" in capsys.readouterr().err
    assert data.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [data.name]


@pytest.fixture
def own_code(tmp_path):
    """A tiny model whose code lies beside it."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(["<|end|>", *alphabet])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", chat_template="{{ messages[0].content }}"
    )
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Qwen2Config(
        **sizes, num_key_value_heads=1, vocab_size=len(wrapped), eos_token_id=0, max_position_embeddings=1600
    )
    folder = tmp_path / "model"
    for part in (transformers.Qwen2ForCausalLM(config), wrapped):
        part.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text()) | {
        "model_type": "mine",
        "architectures": ["MineForCausalLM"],
        "auto_map": {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "mine.py").write_text(
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n"
        "class MineConfig(Qwen2Config):\n    model_type = 'mine'\n"
        "class MineForCausalLM(Qwen2ForCausalLM):\n    config_class = MineConfig\n"
    )
    return folder


def test_a_model_s_own_code_is_run_only_where_it_is_trusted(own_code, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"id": 1, "question": "问", "response": "答"}\n')
    command = [sys.executable, str(SCRIPT), "--base_model", str(own_code), "--data_path", str(data)]
    # Code that was trusted is copied into a cache.
    place = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, "--out_path", "o"], cwd=tmp_path, env=place, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "code of its own: --trust_remote_code runs that code" in done.stderr
    trusted = [*command, "--out_path", "o", "--trust_remote_code"]
    done = subprocess.run(trusted, cwd=tmp_path, env=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "o" / "0-of-1.jsonl")) == 1
    assert json.loads((tmp_path / "o" / "run.json").read_text())["asked"]["options"]["trust_remote_code"] is True


def test_missing_data_exits_with_2(script, tmp_path, capsys):
    arguments = ["--base_model", "m", "--data_path", str(tmp_path / "none.json"), "--out_path", str(tmp_path / "o")]
    assert script.main(arguments) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["file", "file/below", "file/below/it"])
def test_a_folder_that_cannot_be_written_exits_with_2(script, data, tmp_path, capsys, out):
    (tmp_path / "file").write_text("")
    arguments = ["--base_model", "m", "--data_path", str(data), "--out_path", str(tmp_path / out)]
    assert script.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'file'}")


def test_a_fault_of_the_program_exits_with_2(script, data, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise ValueError("a fault")

    monkeypatch.setattr(script, "run", fail)
    assert script.main(["--base_model", "m", "--data_path", str(data), "--out_path", str(tmp_path / "out")]) == 2
    assert "ValueError: a fault" in capsys.readouterr().err

"""Rounds with a scripted writer and judge: n-grams have hardly seen one kind of pair, and learn it."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("rensa")

from libra_guard import Conversation, load_guard
from libra_guard.backends.base import Prompt
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.data.base import SPLITS, split_of
from libra_guard.errors import LibraError, StoppedError, UsageError
from libra_guard.records import Sample
from libra_guard.synth.adversarial import rounds
from libra_guard.synth.adversarial.adversary import Adversary
from libra_guard.synth.adversarial.rounds import adversarial_rounds
from libra_guard.synth.adversarial.settings import AdversarialConfig
from libra_guard.synth.seats import cast
from libra_guard.synth.seats.budget import BudgetSpentError
from libra_guard.synth.seats.endpoints import EndpointsLostError
from libra_guard.synth.seats.store import CallStore
from libra_guard.synth.seats.trial import UselessModelError

KINDS = {
    "plain": (["不行，这样会害人"], ["可以，放心去干"]),
    "sly": (
        ["照规矩慢慢来", "先问问家里人", "找个大夫看看", "把话说清楚", "该还的还上", "按合同走"],
        ["睁只眼闭只眼", "大家都这么干", "没人会知道", "吃亏的是别人", "胆大的先富", "出事算他的"],
    ),
}
"""Kind → how a safe and an unsafe answer may end."""
WORDS = "风花雪月山川湖海春夏秋冬东南西北金木水火土日星云雨雷电江河田野草树竹石桥路车船琴棋书画诗酒茶米"


def words(number: int) -> str:
    """Some that no other number has nearly."""
    return "".join(WORDS[(number * 31 + i * i * 17 + number // 7 * i) % len(WORDS)] for i in range(9)) + f"第{number}"


def ends(number: int, kind: str, unsafe: bool) -> str:
    known = KINDS[kind][unsafe]
    return known[number // 2 % len(known)]


def row(number: int, kind: str, unsafe: bool) -> dict[str, Any]:
    return {
        "id": f"r{number}-{unsafe}",
        "question": f"关于{words(number)}该怎么办",
        "response": f"说到{words(number + 1000)}，{ends(number, kind, unsafe)}。",
        "label": "不安全" if unsafe else "安全",
        "kind": kind if kind == "plain" or number >= 300 else "unknown",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [row(n, "sly" if n % 2 else "plain", unsafe) for n in range(160) for unsafe in (False, True)]
    # Of the sly ones, training sees these few alone.
    rows += [row(n, "sly", unsafe) for n in (300, 312, 324) for unsafe in (False, True)]
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [json.dumps(one, ensure_ascii=False) for one in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


class Models:
    """What the writer and the judge say; a test replaces it."""

    def __init__(self) -> None:
        self.asked: dict[str, list[str]] = {"writer": [], "judge": []}
        self.written = 2000
        self.writer: Callable[[str], str] = self.writes
        self.judge: Callable[[str], str] = self.judges

    def writes(self, text: str) -> str:
        unsafe = "正确的判断：不安全" in text
        found = []
        for _ in range(int(re.search(r"编写(\d+)组", text)[1])):  # type: ignore[index]
            self.written += 1
            one = row(self.written, "sly", unsafe)
            found.append({"问题": one["question"], "回答": one["response"]})
        return f"好的：\n```json\n{json.dumps(found, ensure_ascii=False)}\n```"

    @staticmethod
    def judges(text: str) -> str:
        answer = text.rsplit("大语言模型的回答：", 1)[1]
        unsafe = any(end in answer for _, bad in KINDS.values() for end in bad)
        return json.dumps({"答案": "不安全" if unsafe else "安全", "分析": "如此。"}, ensure_ascii=False)

    def says(self, model: str) -> Callable[[Prompt], str]:
        def say(prompt: Prompt) -> str:
            text = prompt.messages[-1].content
            self.asked[model].append(text)
            answer: Callable[[str], str] = getattr(self, model)
            return answer(text)

        return say


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    made = Models()
    monkeypatch.setattr(cast, "load_backend", lambda backend, model, **_: ScriptedBackend(generate=made.says(model)))
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Path]:
    def make(**changes: Any) -> Path:
        rows = {"set": "samples", "path": "rows.jsonl"}
        recipe = {
            "name": "small",
            "ngrams": {"data": [{**rows, "where": {"kind": ["plain", "sly"]}}], "buckets": 4096, "longest": 2},
            "calibration": {"data": [rows]},
            "test": [rows],
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        told = {
            "recipe": "recipe.yaml",
            "models": {name: {"backend": "scripted", "model": name, "batch": 1} for name in ("writer", "judge")},
            "seats": {"writer": "writer", "judges": [{"guard": "libra", "model": "judge"}]},
            "seeds": 8,
            "variants": 5,
            # Two tails of one kind make half of a short answer.
            "near": {"threshold": 0.9},
        }
        path = tmp_path / "adversarial.yaml"
        path.write_text(yaml.safe_dump(told | changes), encoding="utf-8")
        return path

    return make


def run(path: Path, data: Path, **options: Any) -> dict[str, Any]:
    return adversarial_rounds(path, data, path.parent / "out", report=options.pop("report", lambda _: None), **options)


def test_the_classifier_learns_what_it_got_wrong(settings: Any, models: Models, data: Path, tmp_path: Path) -> None:
    found = run(settings(), data)
    first, second = (sum(one["auc"].values()) for one in found["rounds"][:2])
    assert second > first + 0.05
    assert found["best"] >= 1
    assert found["rounds"][1]["pairs"] > 0
    guard = load_guard(f"ngram:{tmp_path / 'out' / 'guard'}")
    sly = [row(5000, "sly", unsafe) for unsafe in (False, True)]
    verdicts = guard.judge([Conversation.from_pair(one["question"], one["response"]) for one in sly])
    assert [verdict.label for verdict in verdicts] == ["安全", "不安全"]


def test_it_ends_when_a_round_gains_too_little(settings: Any, models: Models, data: Path) -> None:
    found = run(settings(rounds=5, gain=0.9), data)
    # The first round is done to see what it gains.
    assert len(found["rounds"]) == 2


def test_it_ends_after_the_last_round(settings: Any, models: Models, data: Path) -> None:
    assert len(run(settings(rounds=1, gain=0), data)["rounds"]) == 2


def test_the_best_round_is_the_one_that_is_used(settings: Any, models: Models, data: Path, tmp_path: Path) -> None:
    # Labels turned round make it worse.
    models.writer = lambda text: models.writes(
        text.replace("判断：不安全", "判断：X").replace("判断：安全", "判断：不安全").replace("判断：X", "判断：安全")
    )
    models.judge = lambda text: _turned(Models.judges(text))
    found = run(settings(), data)
    assert found["best"] == 0
    ours, theirs = (tmp_path / "out" / place / "model.onnx" for place in ("guard", "round-0/guard"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("changed", [False, True])
def test_what_was_put_beside_the_guard_is_not_lost(
    settings: Any, models: Models, data: Path, tmp_path: Path, changed: bool
) -> None:
    out, said = tmp_path / "out", []
    run(settings(rounds=1), data)
    (out / "guard" / "calibration.json").write_text("{}", encoding="utf-8")
    if changed:
        # The guard that stands there is another one now.
        (out / "guard" / "model.onnx").write_bytes(b"")
    run(settings(rounds=1), data, report=said.append)
    assert (out / ("guard.old" if changed else "guard") / "calibration.json").read_text(encoding="utf-8") == "{}"
    assert [line for line in said if "calibration" in line] == [line for line in said if "guard.old" in line]
    assert (out / "guard.old").exists() is changed


def _turned(said: str) -> str:
    return said.replace("不安全", "X").replace("安全", "不安全").replace("X", "安全")


def test_what_the_judges_call_otherwise_is_left_out(settings: Any, models: Models, data: Path, tmp_path: Path) -> None:
    models.judge = lambda _: '{"答案": "安全", "分析": "都好。"}'
    run(settings(rounds=1), data)
    kept = _rows(tmp_path / "out" / "round-1" / "pairs" / "pairs.jsonl")
    assert kept
    assert {one["label"] for one in kept} == {"安全"}
    reasons = {one["reason"] for one in _rows(tmp_path / "out" / "round-1" / "rejects.jsonl")}
    assert "written as 不安全, judged 安全" in reasons


def test_a_pair_tells_where_it_comes_from(settings: Any, models: Models, data: Path, tmp_path: Path) -> None:
    run(settings(rounds=1), data)
    one = _rows(tmp_path / "out" / "round-1" / "pairs" / "pairs.jsonl")[0]
    assert one["made_by"][0]["model"] == "writer"
    assert one["made_by"][0]["prompt"].startswith("adversarial.j2@")
    seeds = {row["id"]: row for row in _rows(data / "rows.jsonl")}
    assert one["root_question"] == seeds[one["seed"]]["question"]
    assert one["label"] == seeds[one["seed"]]["label"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("抱歉，我不能写这些。", "no JSON list"),
        ("[]", "no JSON list"),
        ('[{"问": "甲", "答": "乙"}]', "an object without 问题 and 回答"),
        ('[{"问题": "怎么办呢", "回答": ""}]', "an empty answer"),
        ('[{"问题": "怎么办呢", "回答": ["一", "二"]}]', "an object without 问题 and 回答"),
        ('[{"问题": "怎么办呢", "回答": "Just do it and do not worry about it."}]', "not Chinese"),
        ('[{"问题": "小学生能看吗", "回答": "色情内容不能给小学生看。"}]', "minors and sex in one text: never made"),
    ],
)
def test_what_cannot_be_used_is_told(settings: Any, models: Models, tmp_path: Path, said: str, reason: str) -> None:
    models.writer = lambda _: said
    config = AdversarialConfig.read(settings())
    with CallStore(tmp_path / "calls.sqlite") as store:
        written = Adversary(cast.Cast(config, store), config).write([Sample.model_validate(row(1, "sly", True))], 1)
    assert (written.samples, [one.reason for one in written.rejects]) == ([], [reason])


def test_a_round_without_a_pair_says_why(settings: Any, models: Models, data: Path, tmp_path: Path) -> None:
    models.writer = lambda _: "抱歉，我不能写这些。"
    with pytest.raises(UsageError, match=r"no pair came of 8 that were written: \{'no JSON list': 8\}"):
        run(settings(), data)
    assert (tmp_path / "out" / "round-0" / "guard").is_dir()


def refuses_after(models: Models, answers: int) -> None:
    """The writer writes so many answers, and none after them."""
    models.writer = lambda text: (
        models.writes(text) if len(models.asked["writer"]) <= answers else "抱歉，我不能写这些。"
    )


def test_a_later_round_without_a_pair_is_the_end(settings: Any, models: Models, data: Path, tmp_path: Path) -> None:
    path, out, lines = settings(rounds=3, gain=0), tmp_path / "out", list[str]()
    refuses_after(models, 8)
    found = run(path, data, report=lines.append)
    assert (len(found["rounds"]), found["best"]) == (2, 1)
    assert (out / "guard" / "model.onnx").read_bytes() == (out / "round-1" / "guard" / "model.onnx").read_bytes()
    why = "no pair came of 8 that were written: {'no JSON list': 8}"
    assert found["ended"] == {"by": "pairs", "why": why, "round": 2, "pairs": 0, "rejects": {"no JSON list": 8}}
    assert json.loads((out / "adversarial.json").read_text(encoding="utf-8")) == found
    assert [one["reason"] for one in _rows(out / "round-2" / "rejects.jsonl")] == ["no JSON list"] * 8
    assert lines[-1] == f"round 2: {why}; it ends here"
    assert run(path, data) == found


def test_a_writer_that_is_given_up_in_a_later_round_is_the_end(settings: Any, models: Models, data: Path) -> None:
    path = settings(rounds=3, gain=0, seeds=32)
    refuses_after(models, 32)
    found = run(path, data)
    assert (len(found["rounds"]), found["ended"]["by"], found["ended"]["round"]) == (2, "pairs", 2)
    assert "models.writer: none of its first 32 answers could be read" in found["ended"]["why"]
    assert run(path, data) == found


def test_a_writer_that_is_given_up_in_the_first_round_is_an_error(settings: Any, models: Models, data: Path) -> None:
    refuses_after(models, 0)
    with pytest.raises(UselessModelError, match="none of its first 32 answers could be read"):
        run(settings(seeds=32), data)


@pytest.mark.parametrize(
    ("changes", "by", "why"),
    [
        ({"rounds": 1, "gain": 0}, "rounds", r"no more are asked for \(rounds: 1\)"),
        (
            {"rounds": 5, "gain": 0.9},
            "gain",
            r"it gained 0\.\d{4} in mean AUC, and less than 0\.9 is not worth another",
        ),
    ],
)
def test_it_says_why_it_ends(
    settings: Any, models: Models, data: Path, changes: dict[str, Any], by: str, why: str
) -> None:
    lines: list[str] = []
    found = run(settings(**changes), data, report=lines.append)
    assert (found["ended"]["by"], found["ended"]["round"]) == (by, 1)
    assert re.fullmatch(why, found["ended"]["why"])
    assert lines[-1] == f"round 1: {found['ended']['why']}; it ends here"


def test_data_behind_a_link(settings: Any, models: Models, data: Path, tmp_path: Path) -> None:
    (tmp_path / "kept" / "elsewhere").mkdir(parents=True)
    data.rename(tmp_path / "kept" / "elsewhere" / "data")
    data.symlink_to(tmp_path / "kept" / "elsewhere" / "data")
    assert run(settings(rounds=1, gain=0), data)["rounds"][1]["pairs"] > 0


def test_pairs_after_files_that_were_split_before_are_all_learnt(
    settings: Any, models: Models, data: Path, tmp_path: Path
) -> None:
    path = settings(rounds=1, gain=0)
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    rows = _rows(data / "rows.jsonl")
    for one in rows:
        # The hashes would have it otherwise.
        one["part"] = "train" if split_of(one["question"]) != "train" else f"held {len(one['question']) % 2}"
    (data / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    whole = {"set": "samples", "path": "rows.jsonl", "whole": True}
    recipe["ngrams"]["data"] = [{**whole, "where": {"part": "train", "kind": "plain"}}]
    recipe["calibration"]["data"] = [{**whole, "where": {"part": "held 0"}}]
    recipe["test"] = [{**whole, "where": {"part": "held 1"}}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    found = run(path, data)
    first, second = (
        sum(
            json.loads((tmp_path / "out" / f"round-{n}" / "train.json").read_text())["examples"]["ngrams"][
                "samples"
            ].values()
        )
        for n in (0, 1)
    )
    assert second - first == found["rounds"][1]["pairs"] > 0


def test_a_question_that_is_tested_on_is_left_out(settings: Any, models: Models, data: Path, tmp_path: Path) -> None:
    safe = [one for one in _rows(data / "rows.jsonl") if one["label"] == "安全"]
    held = [one for name in SPLITS for one in [one for one in safe if split_of(one["question"]) == name][:8]]
    models.writer = lambda text: json.dumps(
        [
            {"问题": one["question"], "回答": f"{words(n + 7000)}，{ends(n, 'sly', '判断：不安全' in text)}。"}
            for n, one in enumerate(held)
        ],
        ensure_ascii=False,
    )
    run(settings(rounds=1, variants=20), data)
    rejected = _rows(tmp_path / "out" / "round-1" / "rejects.jsonl")
    kept = _rows(tmp_path / "out" / "round-1" / "pairs" / "pairs.jsonl")
    near = {one["row"]["question"] for one in rejected if one["reason"] == "near a held-out question"}
    assert {split_of(question) for question in near} == {"dev", "test"}
    assert {split_of(one["question"]) for one in kept} == {"train"}


def test_it_goes_on_where_it_was_stopped(settings: Any, models: Models, data: Path, tmp_path: Path) -> None:
    path, calls = settings(rounds=2, gain=0), 0
    whole = run(path, data)
    (tmp_path / "out").rename(tmp_path / "whole")
    models.written, models.asked = 2000, {"writer": [], "judge": []}

    def dies(text: str) -> str:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return models.writes(text)

    models.writer = dies
    with pytest.raises(KeyboardInterrupt):
        run(path, data)
    models.writer = models.writes
    again = run(path, data)
    assert [one["pairs"] for one in again["rounds"][1:]] == [one["pairs"] for one in whole["rounds"][1:]]
    # No prompt is asked twice but the one that was under way.
    assert len(models.asked["writer"]) - len(set(models.asked["writer"])) <= 1 + len(again["rounds"])
    asked = len(models.asked["writer"])
    run(path, data)
    assert len(models.asked["writer"]) == asked


def test_a_replay_that_is_not_there_shows_before_anything_is_trained(
    settings: Any, models: Models, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "train_classifier", lambda *_, **__: pytest.fail("trained"))
    rows = {"set": "samples", "path": "rows.jsonl"}
    path = settings(replay=[{**rows, "path": "typo.jsonl"}])
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    recipe |= {"encoder": {"base": "x"}, "stages": [{"name": "first", "data": [rows]}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.raises(UsageError, match=r"typo\.jsonl: no such file or folder"):
        run(path, data)


# Servers


QUICK = {"backoff": 0.01, "max_backoff": 0.02, "retries": 1, "timeout": 5.0}


@pytest.fixture
def served(server: Any, settings: Any) -> Callable[..., Path]:
    """The same behind servers: keyword arguments are addresses of models, by default those of one that answers."""
    models = Models()

    def reply(asked: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        text = asked["messages"][-1]["content"]
        seat = "judge" if "大语言模型的回答：" in text else "writer"
        answers: Callable[[str], str] = getattr(models, seat)
        said = "您好！" if seat == "writer" and "编写" not in text else answers(text)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        told = {"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"]}
        return 200, {}, told | {"choices": [choice], "usage": usage}

    server.reply = reply

    def make(*, changes: dict[str, Any] | None = None, **addresses: str) -> Path:
        told = {
            name: {
                "backend": "openai",
                "model": name,
                "endpoints": [addresses.get(name, f"{server.url}/{name}/v1")],
                "options": QUICK,
            }
            for name in ("writer", "judge")
        }
        return settings(models=told, rounds=1, gain=0, **changes or {})

    return make


def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}/v1"


@pytest.mark.parametrize("seat", ["writer", "judge"])
def test_a_server_that_is_not_there_shows_before_anything_is_trained(
    served: Any, data: Path, monkeypatch: pytest.MonkeyPatch, seat: str
) -> None:
    monkeypatch.setattr(rounds, "train_classifier", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(EndpointsLostError, match=rf"^models\.{seat}: .*no connection to the server"):
        run(served(**{seat: nowhere()}), data)


def test_a_judges_own_server_is_asked_too(served: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "train_classifier", lambda *_, **__: pytest.fail("trained"))
    own = {"guard": "libra:judge", "options": {"backend": "openai", "base_url": nowhere(), **QUICK}}
    with pytest.raises(EndpointsLostError, match="no connection to the server"):
        run(served(changes={"seats": {"writer": "writer", "judges": [own]}}), data)


@pytest.mark.parametrize(
    ("seat", "status", "said", "goes_on"),
    [
        ("writer", 404, "no such model", False),
        ("writer", 400, "no such option", False),
        ("judge", 401, "a wrong key", False),
        ("judge", 403, "no right to it", False),
        ("judge", 500, "out of memory", True),
    ],
)
def test_a_server_that_takes_nothing_shows_before_anything_is_trained(
    served: Any,
    server: Any,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    seat: str,
    status: int,
    said: str,
    goes_on: bool,
) -> None:
    monkeypatch.setattr(rounds, "train_classifier", lambda *_, **__: pytest.fail("trained"))
    answers, path = server.reply, served()
    server.reply = lambda asked: (
        (status, {}, {"error": {"message": said}}) if asked["model"] == seat else answers(asked)
    )
    with pytest.raises(EndpointsLostError, match=rf"^models\.{seat}: .*{said}") as raised:
        run(path, data)
    assert isinstance(raised.value, StoppedError) is goes_on


@pytest.mark.parametrize("lost", [(), ("guard", "adversarial.json"), ("round-0", "round-1", "adversarial.json")])
def test_with_all_answers_in_the_store_no_server_is_needed(
    served: Any, server: Any, data: Path, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    path, out = served(), tmp_path / "out"
    found = run(path, data)
    told, asked = (out / "adversarial.json").read_bytes(), len(server.asked)
    for name in lost:
        (shutil.rmtree if (out / name).is_dir() else Path.unlink)(out / name)
    server.reply = lambda _: (500, {}, {})
    assert run(path, data) == found
    assert (out / "adversarial.json").read_bytes() == told
    assert len(server.asked) == asked


def test_what_is_asked_first_counts_against_the_budget(served: Any, server: Any, data: Path, tmp_path: Path) -> None:
    path = served(changes={"budget": {"tokens": 16}})
    with pytest.raises(BudgetSpentError):
        run(path, data)
    # The writer's word and the judge's vote.
    assert len(server.asked) == 2
    assert (tmp_path / "out" / "round-0").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "none.yaml"}, "none.yaml"),
        ({"seats": {"writer": "nobody", "judges": [{"guard": "mini"}]}}, "no model is called 'nobody'"),
        ({"seats": {"writer": "writer", "judges": []}}, "judges"),
        ({"seats": {"writer": "writer", "judges": [{"guard": "mini"}, {"guard": "mini"}]}}, "one stands there twice"),
        ({"round": 3}, "round"),
        ({"budget": {"tokens": 0}}, "budget of 0 tokens is spent"),
    ],
)
def test_wrong_settings_are_told(
    settings: Any, models: Models, data: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LibraError, match=message):
        run(settings(**changes), data)


def test_the_settings_in_the_repository_are_right() -> None:
    for path in Path("configs/adversarial").glob("*.yaml"):
        config = AdversarialConfig.read(path)
        assert (path.parent / config.recipe).exists()


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

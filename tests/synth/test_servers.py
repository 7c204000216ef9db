"""The pipeline against servers that misbehave: what one answers must not end a run, nor slip into the data."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("stamina")

from libra_guard.errors import LibraError, UsageError
from libra_guard.io import Row, read_rows
from libra_guard.records import Label
from libra_guard.synth.config import SynthConfig
from libra_guard.synth.run import STEPS, Run
from libra_guard.synth.seats.budget import BudgetSpentError
from libra_guard.synth.seats.endpoints import EndpointsLostError

QUICK = {"backoff": 0.01, "max_backoff": 0.02, "retries": 1, "timeout": 5.0}
Reply = tuple[int, dict[str, str], Any]
WORDS = (
    "开麻将馆收台费",
    "在群里发红包赌大小",
    "拉同乡下注",
    "帮人代开户头",
    "劝朋友翻本",
    "印彩票号码",
    "押球赛比分",
    "凑人打牌赢钱",
)
GOOD = "\n".join(f"{n}. 怎么{words}才有人来" for n, words in enumerate(WORDS, 1))
SAFE = '{"答案": "安全", "分析": "拒绝并劝阻。"}'
UNSAFE = '{"答案": "不安全", "分析": "鼓励违法。"}'


def says(content: str) -> Reply:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return (
        200,
        {},
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage},
    )


class Model:
    """One server in all seats; a test replaces what it says in one of them."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.writer: Callable[[str], Reply] = lambda _: says(GOOD)
        self.responder: Callable[[str], Reply] = lambda _: says("这个我帮不了你，赌博害人。")
        self.judge: Callable[[str], Reply] = lambda _: says(SAFE)
        self.asked = {"writer": 0, "responder": 0, "judge": 0}
        server.reply = self._reply

    def _reply(self, asked: dict[str, Any]) -> Reply:
        text = asked["messages"][-1]["content"]
        seat = "writer" if "条提问" in text else "judge" if "大语言模型的回答" in text else "responder"
        self.asked[seat] += 1
        reply: Callable[[str], Reply] = getattr(self, seat)
        return reply(text)


@pytest.fixture
def model(server: Any) -> Model:
    return Model(server)


@pytest.fixture
def run(server: Any, tmp_path: Path) -> Callable[..., Run]:
    def make(name: str = "run", say: Callable[[str], None] = lambda _: None, **changes: Any) -> Run:
        settings: dict[str, Any] = {
            "name": "served",
            "models": {
                name: {"backend": "openai", "model": name, "endpoints": [f"{server.url}/v1"], "options": QUICK}
                for name in ("one", "two")
            },
            "seats": {
                "writer": "one",
                "responders": ["one"],
                "judges": [{"guard": "libra", "model": name} for name in ("one", "two")],
            },
            "queries": {"harmful": 6, "borderline": 0, "benign": 0, "only": ["Gambling"]},
            "augment": {"rewrite": 0, "paraphrase": 0, "red_team": 0},
        }
        return Run(SynthConfig.checked(settings | changes, "test"), tmp_path / name, say=say)

    return make


def apart(
    model: Model, *, concurrency: int = 1, patience: int = 5, wait: float = 600.0, **options: Any
) -> dict[str, Any]:
    """Two models, each at an address of its own."""
    about = {"backend": "openai", "concurrency": concurrency, "patience": patience, "wait": wait}
    about["options"] = QUICK | options
    return {name: {**about, "model": name, "endpoints": [f"{model.server.url}/{name}/v1"]} for name in ("one", "two")}


def rows(path: Path) -> list[dict[str, Any]]:
    return [row.data for row in read_rows(path) if isinstance(row, Row)]


def reasons(run: Run, step: str) -> set[str]:
    return {row["reason"] for row in rows(run.path(step).with_suffix(".rejects.jsonl"))}


def test_it_runs_against_a_server(model: Model, run: Callable[..., Run]) -> None:
    made = run()
    made.go()
    assert len(rows(made.path("queries"))) == 6
    samples = [row for file in (made.out / "data" / "stage1").iterdir() for row in rows(file)]
    assert len(samples) == 6
    assert {row["label"] for row in samples} == {Label.SAFE.value}
    assert {row["analyze"] for row in samples} == {"拒绝并劝阻。"}
    card = json.loads((made.out / "data" / "card.json").read_text(encoding="utf-8"))
    assert card["usage"]["two"]["prompt_tokens"] == 60


def test_too_many_requests_are_waited_for(model: Model, run: Callable[..., Run]) -> None:
    asked = Counter[str]()

    def busy(text: str) -> Reply:
        asked[text] += 1
        return (429, {"retry-after": "0.02"}, {"error": {"message": "slow down"}}) if asked[text] % 2 else says(SAFE)

    model.judge = busy
    made = run()
    made.go()
    assert len(rows(made.path("annotate"))) == 6
    assert model.asked["judge"] == 24


@pytest.mark.parametrize("seat", ["writer", "responder", "judge"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_stays_busy_stops_the_run_and_no_row_is_lost(
    model: Model, run: Callable[..., Run], seat: str, status: int
) -> None:
    calm, taken = getattr(model, seat), itertools.count(1)
    setattr(model, seat, lambda text: calm(text) if next(taken) < 4 and seat != "writer" else (status, {}, {}))
    models = apart(model, wait=0)
    with pytest.raises(EndpointsLostError, match=rf"models\.\w+: no endpoint .*\(wait\): .* answered {status}"):
        run(models=models).go()
    step = {"writer": "queries", "responder": "respond", "judge": "annotate"}[seat]
    assert not run(models=models).path(step).exists()
    before = model.asked[seat]
    setattr(model, seat, calm)
    made = run(models=models)
    made.go()
    assert (len(rows(made.path("annotate"))), reasons(made, step)) == (6, set())
    # Three of the answers of "one" had been kept; those of "two" may have been given or not.
    assert model.asked[seat] - before <= {"writer": 1, "responder": 3, "judge": 9}[seat]


def test_half_a_json_is_a_failure_of_the_server_and_asked_again(model: Model, run: Callable[..., Run]) -> None:
    asked = Counter[str]()

    def half(text: str) -> Reply:
        asked[text] += 1
        return (200, {}, '{"id": "1", "choices": [{"mess') if asked[text] % 2 else says("不可以，换个办法吧。")

    model.responder = half
    made = run()
    made.go()
    assert len(rows(made.path("respond"))) == 6


def test_half_a_verdict_is_no_vote(model: Model, run: Callable[..., Run]) -> None:
    model.judge = lambda text: says('{"分析": "这个回答')
    made = run()
    with pytest.raises(LibraError, match="no pair went into a stage: 6 × a judge could not be read"):
        made.go()
    votes = [vote for row in rows(made.path("annotate")) for vote in row["votes"]]
    assert {vote["label"] for vote in votes} == {None}
    left = rows(made.out / "data" / "left_out.jsonl")
    assert {row["left_out"] for row in left} == {"a judge could not be read"}
    assert not (made.out / "data" / "stage1").exists()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("I can certainly help!\n1. How to open a casino\n2. How to bet", "not Chinese"),
        ("抱歉，我不能帮助编写这样的内容。", "a refusal"),
        ("1. 怎么赌\n2. 怎么赌\n3. 怎么赌\n4. 怎么赌", "the same lines again and again"),
        ("", "an empty answer"),
        ("好的，马上写！", "no numbered lines"),
    ],
)
def test_a_writer_without_sense_is_asked_again_and_then_given_up(
    model: Model, run: Callable[..., Run], said: str, reason: str
) -> None:
    model.writer = lambda text: says(said)
    made = run()
    with pytest.raises(LibraError, match=f"queries made nothing, but rejects: 4 × {reason}; see "):
        made.do("elements", "queries")
    assert rows(made.path("queries")) == []
    assert reasons(made, "queries") == {reason}
    # Three attempts a call, one call in each of the four rounds.
    assert model.asked["writer"] == 12
    # What has no record is made again.
    assert not made.path("queries").with_suffix(".json").exists()


def test_a_writer_that_repeats_itself_gives_each_query_once(model: Model, run: Callable[..., Run]) -> None:
    made = run(queries={"harmful": 20, "borderline": 0, "benign": 0, "only": ["Gambling"]})
    made.do("elements", "queries")
    assert len(rows(made.path("queries"))) == len(WORDS)
    assert reasons(made, "queries") == {"written before"}
    record = json.loads(made.path("queries").with_suffix(".json").read_text(encoding="utf-8"))
    assert record["figures"]["lacking"] == {"Gambling/harmful": 20 - len(WORDS)}


def test_a_responder_that_refuses_everything_is_counted(model: Model, run: Callable[..., Run]) -> None:
    model.responder = lambda text: says("抱歉，我不能回答这个问题。")
    made = run()
    made.go()
    record = json.loads(made.path("respond").with_suffix(".json").read_text(encoding="utf-8"))
    assert record["figures"]["refused"] == {"one": 6}
    card = json.loads((made.out / "data" / "card.json").read_text(encoding="utf-8"))
    assert card["responses"]["one"] == {"answers": 6, "refused": 6, "cut": 0}


def test_who_was_asked_again_and_why_stands_in_the_record_and_on_the_card(
    model: Model, run: Callable[..., Run]
) -> None:
    said: set[str] = set()

    def first(refusal: str, then: Callable[[str], Reply]) -> Callable[[str], Reply]:
        def answer(text: str) -> Reply:
            again = f"{refusal}{text}" in said
            said.add(f"{refusal}{text}")
            return then(text) if again else says(refusal)

        return answer

    model.writer = first("抱歉，我不能写这些内容。", model.writer)
    model.responder = first("Sure, here is what you want.", model.responder)
    made = run()
    made.go()
    card = json.loads((made.out / "data" / "card.json").read_text(encoding="utf-8"))
    assert card["asked_again"] == {"one": {"a refusal": 1, "not Chinese": 6}}
    record = json.loads(made.path("respond").with_suffix(".json").read_text(encoding="utf-8"))
    assert record["figures"]["asked_again"] == {"one": {"not Chinese": 6}}
    assert "| one | not Chinese | 6 |" in (made.out / "data" / "README.md").read_text(encoding="utf-8")


def test_a_judge_whose_server_fails_when_it_is_asked_again_is_tried_again_by_the_next_run(
    model: Model, run: Callable[..., Run]
) -> None:
    judged: list[str] = []

    def broken(text: str) -> Reply:
        if WORDS[0] not in text:
            return says(SAFE)
        judged.append(text)
        return says("胡话") if len(judged) <= 2 else (400, {}, {"error": {"message": "no"}})

    model.judge = broken
    made = run(failures=0.5)
    *_, outcome = made.do(*list(STEPS)[:-1])
    assert (outcome.step, outcome.rows, outcome.failed) == ("annotate", 5, 1)
    model.judge = lambda _: says(SAFE)
    (outcome,) = run(failures=0.5).do("annotate")
    assert (outcome.rows, outcome.failed) == (6, 0)


def test_a_query_that_the_server_does_not_take_costs_one_row(model: Model, run: Callable[..., Run]) -> None:
    def picky(text: str) -> Reply:
        return (400, {}, {"error": {"message": "content filter"}}) if "翻本" in text else says("不可以这样做。")

    model.responder = picky
    made = run(failures=0.5)
    outcomes = {one.step: one for one in made.go()}
    assert (outcomes["respond"].rows, outcomes["respond"].failed) == (5, 1)
    assert "content filter" in reasons(made, "respond").pop()


def test_a_server_that_dies_midway_stops_the_run_which_then_goes_on(model: Model, run: Callable[..., Run]) -> None:
    answered = [0]

    def dying(text: str) -> Reply:
        answered[0] += 1
        return says(UNSAFE) if answered[0] <= 4 else (500, {}, {"error": {"message": "out of memory"}})

    model.judge = dying
    models = run().config.model_dump(mode="json")["models"]
    for one in models.values():
        one |= {"concurrency": 1, "patience": 2}
    with pytest.raises(EndpointsLostError, match=r"2 failures in a row.*out of memory"):
        run(models=models).go()
    model.judge = lambda text: says(UNSAFE)
    before = model.asked["judge"]
    made = run(models=models)
    made.go()
    assert {row["label"] for file in (made.out / "data" / "stage1").iterdir() for row in rows(file)} == {"不安全"}
    # Four of the twelve votes had been given.
    assert model.asked["judge"] - before == 8


def test_what_a_server_never_takes_does_not_end_the_next_run(model: Model, run: Callable[..., Run]) -> None:
    model.responder = lambda text: says("不可以。") if "翻本" in text else (400, {}, {"error": {"message": "filter"}})
    models = run().config.model_dump(mode="json")["models"]
    for one in models.values():
        one |= {"concurrency": 1, "patience": 2}
    for _ in range(2):
        made = run(models=models, failures=0.9)
        outcomes = made.do("elements", "queries", "augment", "import", "dedup", "respond")
        assert (outcomes[-1].rows, outcomes[-1].failed) == (1, 5)


@pytest.mark.parametrize("seat", ["responder", "judge"])
def test_models_on_servers_are_asked_side_by_side(model: Model, run: Callable[..., Run], seat: str) -> None:
    """Each answers its first question only once the other has been asked its own."""
    meeting = threading.Barrier(2)

    def waits(asked: dict[str, Any]) -> Reply:
        text = asked["messages"][-1]["content"]
        mine = "条提问" not in text and ("大语言模型的回答" in text) == (seat == "judge")
        if mine and not together:
            meeting.wait(20)
            together.add(asked["model"])
        return reply(asked)

    together: set[str] = set()
    reply, model.server.reply = model.server.reply, waits
    made = run(
        models=apart(model, timeout=30.0),
        seats={
            "writer": "one",
            "responders": ["one", "two"],
            "judges": [{"guard": "libra", "model": name} for name in ("one", "two")],
        },
    )
    made.go()
    assert len(together) >= 1


# What ends a run.


class Held:
    """Holds answers back until the test is over; gives in after so long that a right program never sees it."""

    def __init__(self) -> None:
        self.over, self.gave_in = threading.Event(), False

    def __call__(self) -> Reply:
        self.gave_in |= not self.over.wait(30)
        return 400, {}, {}


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.over.set()


PATIENT = {"timeout": 3600.0, "retries": 10**6}
RESPONDING = {"writer": "grammar", "responders": ["one", "two"], "judges": [{"guard": "mini"}, {"guard": "words:w"}]}


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").write_text("赌", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("seat", ["writer", "responder", "judge"])
@pytest.mark.parametrize("silent", [True, False])
def test_an_interrupt_waits_for_no_server(
    model: Model, run: Callable[..., Run], held: Held, seat: str, silent: bool
) -> None:
    """Neither for one that never answers, nor for one that is always busy."""
    asked: list[int] = []
    said: list[str] = []
    # Several are asked at once: each must know its own number.
    numbers = itertools.count(1)

    def answers(_: str) -> Reply:
        asked.append(number := next(numbers))
        if number == (1 if seat == "writer" else 4):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        # A busy server refuses at last, so that a wrong program ends.
        return held() if silent else (429 if number < 2000 else 400, {"retry-after": "0.01"}, {})

    setattr(model, seat, answers)
    with pytest.raises(KeyboardInterrupt):
        run(models=apart(model, concurrency=4, **PATIENT), say=said.append).go()
    count = len(asked)
    assert not held.gave_in
    assert count <= 8 if silent else count < 1000
    # Whoever still paused between two attempts would ask again by now.
    threading.Event().wait(0.2)
    assert len(asked) == count
    assert said == ["stopping: what was answered is kept; run again to go on"]


@pytest.mark.parametrize("end", [BudgetSpentError, EndpointsLostError])
def test_a_run_that_ends_waits_for_no_server(
    model: Model, run: Callable[..., Run], held: Held, words: None, end: type[LibraError]
) -> None:
    waiting = threading.Event()

    def reply(asked: dict[str, Any]) -> Reply:
        if asked["model"] == "one":
            waiting.set()
            return held()
        assert waiting.wait(30)
        return says("不可以。") if end is BudgetSpentError else (401, {}, {})

    model.server.reply = reply
    said: list[str] = []
    made = run(models=apart(model, patience=1, **PATIENT), seats=RESPONDING, budget={"tokens": 20}, say=said.append)
    with pytest.raises(end):
        made.go()
    assert not held.gave_in
    assert said == []


# What is written down and sent.


def test_no_file_of_a_run_holds_a_key_or_an_address(
    model: Model, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-not-to-be-seen"
    monkeypatch.setenv("OWN_KEY", key)
    models = apart(model, api_key=key, extra_body={"user": {"token": key}})
    models["two"] |= {"key_env": "OWN_KEY", "endpoints": [models["two"]["endpoints"][0].replace("//", f"//me:{key}@")]}
    judges = [{"guard": "libra", "model": name} for name in ("one", "two")]
    run(models=models, seats={"writer": "one", "responders": ["one", "two"], "judges": judges}).go()
    written = b"".join(file.read_bytes() for file in run().out.rglob("*") if file.is_file())
    assert key.encode() not in written
    assert model.server.url.removeprefix("http://").encode() not in written


def test_the_providers_key_goes_to_no_other_server(
    model: Model, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-provider")
    monkeypatch.setenv("OWN_KEY", "sk-own")
    models = apart(model)
    models["two"]["key_env"] = "OWN_KEY"
    models["named"] = {**models["one"], "model": "named", "key_env": "OPENAI_API_KEY"}
    address = {"base_url": models["one"]["endpoints"][0]}
    models["other"] = {**models["one"], "model": "other", "endpoints": [], "options": QUICK | address}
    seats = {"writer": "one", "responders": ["one", "two", "named", "other"]}
    run(models=models, seats={**run().config.seats.model_dump(), **seats}).go()
    sent = {
        (asked["model"], one["authorization"])
        for asked, one in zip(model.server.asked, model.server.headers, strict=True)
    }
    assert sent == {
        ("one", "Bearer EMPTY"),
        ("two", "Bearer sk-own"),
        ("named", "Bearer sk-provider"),
        ("other", "Bearer EMPTY"),
    }


def test_a_key_that_is_not_in_the_environment_is_told_at_once(
    model: Model, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OWN_KEY", raising=False)
    models = apart(model)
    models["one"]["key_env"] = "OWN_KEY"
    with pytest.raises(UsageError, match=r"models\.one\.key_env: the environment has no OWN_KEY"):
        run(models=models).go()
    assert not model.server.asked


def test_money_hangs_neither_on_kills_nor_on_how_the_steps_were_done(
    model: Model, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model in several seats, whose tokens cost what no float holds exactly."""
    models = {name: {**one, "price": {"input": 0.1, "output": 0.7}} for name, one in apart(model).items()}
    judges = [{"guard": "libra", "model": name} for name in ("one", "two")]
    seats = {"writer": "one", "responders": ["one", "two"], "judges": judges}
    model.responder = lambda text: says(f"{'去吧，祝你赢钱' if '彩票' in text else '不行，赌博害人'}。{text}")
    model.judge = lambda text: says(UNSAFE if "祝你赢钱" in text else SAFE)
    made = {name: run(name, models=models, seats=seats) for name in ("whole", "cut", "killed")}
    made["whole"].go()
    for step in STEPS:
        run("cut", models=models, seats=seats).do(step)
    for at in (2, 9, 6):
        _interrupted(model, run("killed", models=models, seats=seats), at, monkeypatch)
    made["killed"].go()
    written = [
        {
            str(file.relative_to(one.out)): file.read_bytes()
            for part in ("steps", "data")
            for file in (one.out / part).rglob("*")
            if file.is_file()
        }
        for one in made.values()
    ]
    assert written[0] == written[1] == written[2]
    card = json.loads((made["whole"].out / "data" / "card.json").read_text(encoding="utf-8"))
    assert card["usage"]["one"]["money"] == round(
        (card["usage"]["one"]["prompt_tokens"] * 0.1 + card["usage"]["one"]["new_tokens"] * 0.7) / 1e6, 6
    )


def _interrupted(model: Model, made: Run, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers, reply = itertools.count(1), model.server.reply

    def interrupts(request: dict[str, Any]) -> Reply:
        if next(numbers) == at:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return reply(request)

    monkeypatch.setattr(model.server, "reply", interrupts)
    with pytest.raises(KeyboardInterrupt):
        made.go()
    monkeypatch.undo()

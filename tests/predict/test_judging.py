"""Rows that a model fails on, and models that are gone: told apart by as few calls as it takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("stamina")

from libra_guard.backends.openai import OpenAIBackend
from libra_guard.backends.scripted import ScriptedBackend
from libra_guard.errors import BackendError, BusyError, DeniedError, RefusedError, ServerError, StoppedError
from libra_guard.guards.base import Guard
from libra_guard.guards.libra import LibraGuard
from libra_guard.guards.libra_prompt import answer_json
from libra_guard.io import Row
from libra_guard.predict.judging import ModelLostError, judge_jobs
from libra_guard.predict.rows import Fields, Job, conversation
from libra_guard.predict.runner import Settings, run
from libra_guard.records import Conversation, Label, Method, Target, Verdict

DEAD = "http://127.0.0.1:9/v1"
"""The port of a service that no machine runs any more."""
QUICK = {"retries": 2, "backoff": 0.01, "max_backoff": 0.02}
GREETING = "你好！"


class Scripted(Guard):
    """Fails as it is told to: by the texts that it is given, or by the number of the call."""

    name = "scripted"

    def __init__(self, fails: Callable[[list[str], int], Exception | None]) -> None:
        super().__init__(ScriptedBackend(logits=[]))
        self.fails = fails
        self.calls: list[list[str]] = []

    def _judge(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        texts = [str(c.response) for c in conversations]
        self.calls.append(texts)
        if error := self.fails(texts, len(self.calls)):
            raise error
        return [Verdict(label=Label.SAFE, method=Method.LOGITS) for _ in texts]


def jobs_of(*answers: str) -> list[Job]:
    rows = ({"question": "问", "response": answer} for answer in answers)
    return [Job(Row("f", i, row), i, str(i), conversation(row, Fields())) for i, row in enumerate(rows, 1)]


def judged(guard: Guard, jobs: list[Job], *, alone: bool = False) -> list[bool]:
    """Which jobs have a verdict."""
    found = judge_jobs(guard, jobs, target=Target.RESPONSE, explain=False, alone=alone)
    return [isinstance(result, Verdict) for result in found]


def bad(error: Exception) -> Callable[[list[str], int], Exception | None]:
    return lambda texts, _: error if "坏" in texts else None


@pytest.mark.parametrize(
    "error",
    [BackendError("failed"), ServerError("timed out"), RefusedError("400"), BusyError("429"), ValueError("?")],
)
def test_a_bad_row_costs_itself_alone(error: Exception) -> None:
    assert judged(Scripted(bad(error)), jobs_of("好", "坏", "好", "好")) == [True, False, True, True]


def test_where_nobody_takes_the_connection_nothing_more_is_asked() -> None:
    guard = Scripted(lambda *_: BusyError("no connection", there=False))
    with pytest.raises(ModelLostError, match="no connection; what was judged is kept: the same call goes on"):
        judged(guard, jobs_of(*"一二三"))
    assert guard.calls == [["一", "二", "三"]]


@pytest.mark.parametrize("error", [ServerError("the server did not answer in time"), BusyError("503")])
def test_a_server_that_fails_on_everything_is_asked_once_more(error: Exception) -> None:
    guard = Scripted(lambda *_: error)
    with pytest.raises(ModelLostError, match=str(error)):
        judged(guard, jobs_of(*"一二三"))
    assert guard.calls == [["一", "二", "三"], [GREETING]]


@pytest.mark.parametrize("there", [True, False])
def test_a_server_that_dies_between_two_rows_rejects_none(there: bool) -> None:
    def dies(texts: list[str], call: int) -> Exception | None:
        return BusyError("gone", there=there) if call > 3 else bad(BackendError("one is bad"))(texts, call)

    # The chunk with its bad row, the greeting, the first row.
    guard = Scripted(dies)
    with pytest.raises(ModelLostError, match="gone"):
        judged(guard, jobs_of("好", "也好", "坏"))
    assert guard.calls[:4] == [["好", "也好", "坏"], [GREETING], ["好"], ["也好"]]


def test_rows_judged_again_are_kept_when_the_server_dies() -> None:
    guard = Scripted(lambda _, call: BusyError("gone", there=False) if call > 1 else None)
    assert judged(guard, jobs_of("一", "二", "三"), alone=True) == [True, False, False]
    assert guard.calls == [["一"], ["二"]]


def test_refusals_need_no_greeting_once_something_was_judged() -> None:
    guard = Scripted(bad(RefusedError("400: filtered")))
    assert judged(guard, jobs_of("坏", "好", "坏", "坏")) == [False, True, False, False]
    assert guard.calls.count([GREETING]) == 1


def test_a_server_that_refuses_everything_is_asked_wrongly() -> None:
    guard = Scripted(lambda *_: RefusedError("403: no such account"))
    with pytest.raises(DeniedError, match="no such account; a greeting is refused too: check the model's"):
        judged(guard, jobs_of(*"一二三"))
    assert len(guard.calls) == 2


def test_a_wrong_key_needs_no_greeting_and_is_no_server_that_is_gone() -> None:
    guard = Scripted(lambda *_: DeniedError("401: a wrong key; check the key"))
    with pytest.raises(DeniedError, match=r"check the key$") as caught:
        judged(guard, jobs_of(*"一二三"))
    assert not isinstance(caught.value, StoppedError)
    assert guard.calls == [["一", "二", "三"]]


def test_rows_judged_again_are_kept_when_the_key_is_taken_back() -> None:
    guard = Scripted(lambda _, call: DeniedError("401") if call > 1 else None)
    assert judged(guard, jobs_of("一", "二", "三"), alone=True) == [True, False, False]


def test_a_model_of_this_process_that_fails_on_a_greeting_does_not_go_on_by_itself() -> None:
    guard = Scripted(lambda *_: BackendError("the model has no memory left"))
    with pytest.raises(BackendError, match=r"no memory left$") as caught:
        judged(guard, jobs_of(*"一二三"))
    assert not isinstance(caught.value, StoppedError)
    assert guard.calls == [["一", "二", "三"], [GREETING]]


# Of a real backend


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    data = tmp_path / "rows.jsonl"
    rows = ({"id": i, "question": f"问{i}", "response": f"答{i}"} for i in range(70))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Settings(data=str(data), out=tmp_path / "out")


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests that the backend tried, sent or not."""
    made: list[Any] = []
    ask = OpenAIBackend._ask

    async def counted(self: OpenAIBackend, prompt: Any, *args: Any, **options: Any) -> Any:
        made.append(prompt)
        return await ask(self, prompt, *args, **options)

    monkeypatch.setattr(OpenAIBackend, "_ask", counted)
    return made


def test_a_wrong_address_is_told_after_one_round_of_retries(settings: Settings, attempts: list[Any]) -> None:
    backend = OpenAIBackend("m", base_url=DEAD, concurrency=4, **QUICK)
    with pytest.raises(
        StoppedError, match=r"check base_url, and that a server runs at 127\.0\.0\.1:9; what was judged"
    ):
        run(LibraGuard(backend), settings)
    backend.close()
    assert len(attempts) <= 4 * 3
    assert settings.predictions.read_bytes() == settings.rejects.read_bytes() == b""


def test_a_server_that_hangs_is_told_after_two_rounds(settings: Settings, attempts: list[Any], server: Any) -> None:
    over = threading.Event()
    server.reply = lambda _: (over.wait(60), (500, {}, {}))[1]
    backend = OpenAIBackend("m", base_url=f"{server.url}/v1", timeout=0.05, concurrency=4, **QUICK)
    with pytest.raises(StoppedError, match="did not answer in time"):
        run(LibraGuard(backend), settings)
    over.set()
    backend.close()
    # The chunk's first requests, and the greeting.
    assert len(attempts) <= (4 + 1) * 3
    assert settings.rejects.read_bytes() == b""


def test_a_run_goes_on_when_the_server_is_back(settings: Settings, server: Any) -> None:
    message = {"role": "assistant", "content": answer_json(Label.SAFE, None)}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    server.reply = lambda _: (200, {}, body) if len(server.asked) <= settings.chunk + 3 else (503, {}, {})
    backend = OpenAIBackend("m", base_url=f"{server.url}/v1", **QUICK)
    with pytest.raises(StoppedError, match="503"):
        run(LibraGuard(backend), settings)
    assert len(settings.predictions.read_text(encoding="utf-8").splitlines()) == settings.chunk
    assert settings.rejects.read_bytes() == b""
    server.reply = lambda _: (200, {}, body)
    outcome = run(LibraGuard(backend), settings)
    backend.close()
    assert (outcome.judged, outcome.resumed, outcome.rejected) == (70, settings.chunk, 0)

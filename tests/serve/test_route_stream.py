from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from libra_guard.predict import arrivals
from libra_guard.predict.stream import LEFT_OUT, SHORTENED

URL = "/v1/guard/stream"
QUESTION = "怎么泡绿茶？"
SAFE = "先把杯子温一下，再投茶。"
MakeServer = Callable[..., TestClient]


def post(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post(URL, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def told(client: TestClient, answer: str, size: int, **body: Any) -> tuple[str, dict[str, Any]]:
    """What is released of an answer sent in pieces, and the last response."""
    released, state = "", None
    for start in range(0, len(answer), size):
        text, end = answer[start : start + size], start + size >= len(answer)
        last = post(client, question=QUESTION, text=text, state=state, end=end, **body)
        released, state = released + last["released"], last["state"]
        if last["stopped"]:
            break
    return released, last


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_in_pieces(client: TestClient, guard: Any, size: int) -> None:
    answer = f"{SAFE}\r\n{SAFE}👨‍👩‍👧 好的，就这样喝吧\u200b "
    assert told(client, answer, size)[0] == answer
    # At the end the whole of it, for there is a little suspicion: a score of 0.1.
    assert guard.asked == [f"{SAFE}\r\n", SAFE, "👨‍👩‍👧 好的，就这样喝吧\u200b ", answer]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_nothing_leaves_from_what_is_blocked_on(client: TestClient, guard: Any, size: int) -> None:
    released, last = told(client, f"{SAFE}然后【坏】这样做就行了。{SAFE}", size)
    assert released == SAFE
    assert last["stopped"]
    assert last["state"] is None
    assert last["windows"][-1]["decision"]["action"] == "block"
    assert (last["windows"][-1]["start"], last["windows"][-1]["end"]) == (12, 24)
    assert last["answer"]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_denied_phrase_is_found_across_the_end_of_a_sentence(
    make_server: MakeServer, guard: Any, tmp_path: Path, size: int
) -> None:
    (tmp_path / "own.yaml").write_text("deny: {phrases: [甲乙丙丁]}", encoding="utf-8")
    client = make_server(policies=(tmp_path / "own.yaml",), policy="own", stream_doubt=1)
    parts = [SAFE, "然后要说的就是甲乙。", "\n丙丁再说的事情就是这些。"]
    released, last = told(client, "".join([*parts, SAFE]), size)
    assert released == f"{parts[0]}{parts[1]}\n"
    assert last["windows"][-1]["decision"]["listed"] == "deny: phrase 1"
    # It is the list that looks at the text before; the guard does not.
    assert not any("甲乙" in text and "丙丁" in text for text in guard.asked)


def test_all_of_a_request_is_decided_by_one_policy(make_server: MakeServer, monkeypatch: Any) -> None:
    client = make_server(batch_size=1)
    server = client.app.state.server
    decide_all, monitor = server.decide_all, server.policies.get("monitor")

    async def changed(*args: Any, **options: Any) -> Any:
        judged = await decide_all(*args, **options)
        monkeypatch.setattr(server.policies, "get", lambda name=None: monitor)
        return judged

    server.decide_all = changed
    found = post(client, text=f"{SAFE}{SAFE}这样【坏】就行了。", end=True)
    assert [window["decision"]["policy"] for window in found["windows"]] == ["default"] * 3
    assert (found["stopped"], found["released"]) == (True, SAFE + SAFE)
    assert post(client, text="【坏】", end=True)["windows"][0]["decision"]["policy"] == "monitor"


def test_what_is_answered(client: TestClient) -> None:
    first = post(client, question=QUESTION, text=f"{SAFE}然后")
    assert first["released"] == SAFE
    assert (first["stopped"], first["answer"]) == (False, None)
    (window,) = first["windows"]
    assert (window["start"], window["end"]) == (0, 12)
    assert window["verdict"]["label"] == "安全"
    assert window["decision"]["action"] == "pass"
    assert first["state"]["pending"] == "然后"
    held = post(client, question=QUESTION, text="注水", state=first["state"])
    assert (held["released"], held["windows"], held["state"]["pending"]) == ("", [], "然后注水")
    last = post(client, question=QUESTION, text="", state=held["state"], end=True)
    assert (last["released"], last["state"]) == ("然后注水", None)


def test_what_waits_is_judged_as_it_is_when_that_is_asked_for(client: TestClient, guard: Any) -> None:
    first = post(client, question=QUESTION, text=f"{SAFE}然后")
    assert first["released"] == SAFE
    flushed = post(client, question=QUESTION, text="", state=first["state"], flush=True)
    assert (flushed["released"], flushed["state"]["pending"]) == ("然后", "")
    again = post(client, question=QUESTION, text="", state=flushed["state"], flush=True)
    assert (again["released"], again["windows"]) == ("", [])
    # All that waits: the sentence that has ended, too short for a window of its own, and the beginning of the next.
    both = post(client, question=QUESTION, text="好。再【坏】", state=again["state"], flush=True)
    assert guard.asked[-2:] == ["然后好。", "再【坏】"]
    assert (both["released"], both["stopped"]) == ("好。", True)
    assert post(client, question=QUESTION, text=f"{SAFE}然后", flush=True, end=True)["released"] == f"{SAFE}然后"


def test_how_fast_what_is_blocked_was_found(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(arrivals, "time", SimpleNamespace(monotonic=lambda: clock.now))
    client = make_server()
    server = client.app.state.server
    decide_all = server.decide_all

    async def slow(*args: Any, **options: Any) -> Any:
        clock.now += 0.25
        return await decide_all(*args, **options)

    server.decide_all = slow
    first = post(client, question=QUESTION, text=f"{SAFE}这样【坏】做就行了。")
    assert (first["stopped"], first["first_hit"]) == (False, None)
    # The full stop came with the request before: only the caller knows when.
    clock.now += 60
    last = post(client, question=QUESTION, text="然后再注水", state=first["state"])
    assert last["first_hit"] == {"end": 22, "ahead": 5, "ms": 250}


def test_the_same_request_again_is_answered_the_same(client: TestClient) -> None:
    first = post(client, question=QUESTION, text=f"{SAFE}然后")
    again = [post(client, question=QUESTION, text=f"注水。{SAFE}再", state=first["state"]) for _ in range(2)]
    assert again[0] == again[1]


def test_a_doubt_is_looked_at_with_the_text_of_an_earlier_request(client: TestClient, guard: Any) -> None:
    first = post(client, question=QUESTION, text=f"{SAFE}然后")
    post(client, question=QUESTION, text="【疑】就这样注水吧。", state=first["state"], end=True)
    assert guard.asked[1:] == ["然后【疑】就这样注水吧。", f"{SAFE}然后【疑】就这样注水吧。"]


def test_an_answer_without_a_question(client: TestClient) -> None:
    assert post(client, text=f"{SAFE}【坏】", end=True)["stopped"]


def test_messages_before_the_answer(client: TestClient) -> None:
    messages = [
        {"role": "user", "content": "一"},
        {"role": "assistant", "content": "二"},
        {"role": "user", "content": "三"},
    ]
    assert post(client, messages=messages, text=SAFE, end=True)["released"] == SAFE


def test_earlier_messages_stand_in_second_looks_where_the_guard_reads_them(make_server: MakeServer, guard: Any) -> None:
    class Reading(type(guard)):
        multi_turn = True

        def _judge(self, conversations: Any) -> Any:
            self.lengths = [*getattr(self, "lengths", []), *(len(c.messages) for c in conversations)]
            return super()._judge(conversations)

    reading = Reading()
    client = make_server({"fake": reading})
    reading.lengths = []
    before = [("user", "一" * 200), ("assistant", "二" * 200), ("user", "三")]
    messages = [{"role": role, "content": text} for role, text in before]
    first = post(client, messages=messages, text=f"【疑】{SAFE}【疑】{SAFE}【疑】{SAFE}然后")
    assert reading.lengths == [2, 2, 2, 4, 4, 2]
    assert first["state"]["recalled"] == 800
    reading.lengths = []
    last = post(client, messages=messages, text=f"【疑】{SAFE}", state=first["state"], end=True)
    assert reading.lengths == [2, 2]
    assert last["windows"][0]["verdict"]["notes"] == [LEFT_OUT]


def test_white_space_is_released_unjudged(client: TestClient, guard: Any) -> None:
    last = post(client, question=QUESTION, text=" \n", end=True)
    assert last["released"] == " \n"
    assert last["windows"] == [{"start": 0, "end": 2, "verdict": None, "decision": None}]
    assert guard.asked == []


def test_a_profile_that_monitors(client: TestClient) -> None:
    last = post(client, question=QUESTION, text=f"【坏】{SAFE}{SAFE}", end=True, policy="monitor")
    assert last["released"] == f"【坏】{SAFE}{SAFE}"
    assert [window["decision"]["would"] for window in last["windows"]] == ["block", "pass"]


@pytest.mark.parametrize(
    ("body", "word"),
    [({}, "抱歉"), ({"language": "en"}, "sorry"), ({"question": "How?"}, "sorry"), ({"question": None}, "抱歉")],
)
def test_the_safe_answer_is_in_the_language_of_the_question(
    client: TestClient, body: dict[str, Any], word: str
) -> None:
    last = post(client, **{"question": QUESTION, "text": "【坏】这样。", "end": True, **body})
    chinese = any("\u4e00" <= c <= "\u9fff" for c in last["answer"])
    assert chinese == (word == "抱歉")


def test_a_long_text_is_judged_in_batches(make_server: MakeServer, guard: Any) -> None:
    client = make_server(batch_size=4, queue_size=8, max_conversations=8)
    assert post(client, question=QUESTION, text=SAFE * 50, end=True)["released"] == SAFE * 50
    assert max(map(len, guard.batches)) <= 4


def test_nothing_is_judged_after_a_block(make_server: MakeServer, guard: Any) -> None:
    client = make_server(batch_size=2)
    post(client, question=QUESTION, text=f"【坏】{SAFE}" + SAFE * 50, end=True)
    assert len(guard.asked) == 2


def test_a_shortened_question_is_said(client: TestClient) -> None:
    last = post(client, question="长" * 1000, text=SAFE, end=True)
    assert SHORTENED in last["windows"][0]["verdict"]["notes"]


def test_the_audit_log_has_the_whole_question_and_which_part_it_was(make_server: MakeServer, tmp_path: Path) -> None:
    client, question = make_server(audit=tmp_path / "audit"), "长" * 1000
    post(client, question=question, text=f"{SAFE}【疑】也可以再等一会儿。", end=True)
    lines = [json.loads(line) for line in (tmp_path / "audit").read_bytes().splitlines()]
    assert [line["part"] for line in lines] == ["window", "window", "context"]
    assert {line["question_hash"] for line in lines} == {f"sha256:{hashlib.sha256(question.encode()).hexdigest()}"}
    assert {line["question_characters"] for line in lines} == {1000}


STATE = {"position": 12, "before": SAFE, "repeated": 0, "pending": "然后", "half": None, "credit": 20.0}


def test_the_state_of_these_tests_is_one(client: TestClient) -> None:
    assert post(client, question=QUESTION, text="注水。", state=STATE, end=True)["released"] == "然后注水。"


@pytest.mark.parametrize(
    "wrong",
    [
        "state",
        [],
        7,
        {},
        STATE | {"position": -1},
        STATE | {"position": 1 << 70},
        STATE | {"position": 1.5},
        STATE | {"position": "12"},
        STATE | {"position": True},
        STATE | {"position": 3},
        STATE | {"before": None},
        STATE | {"before": "字" * 401, "position": 401},
        STATE | {"repeated": 13},
        STATE | {"pending": "字" * 401},
        STATE | {"pending": 5},
        STATE | {"half": 1},
        STATE | {"half": "x"},
        # What JSON carries here ends with no half of a character.
        STATE | {"half": 0xD800},
        # More than a state may say once this request's text is in it.
        STATE | {"position": 1 << 40},
        STATE | {"credit": 1 << 40},
        STATE | {"credit": 1e300},
        STATE | {"credit": "NaN"},
        STATE | {"more": 1},
        {k: v for k, v in STATE.items() if k != "credit"},
    ],
)
def test_a_state_that_was_never_given(client: TestClient, wrong: Any) -> None:
    answer = client.post(URL, json={"question": QUESTION, "text": f"好。{SAFE}再", "state": wrong})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith("state")


def test_an_answer_does_not_end_inside_a_character(client: TestClient) -> None:
    answer = client.post(URL, json={"question": QUESTION, "text": "", "state": STATE | {"half": 0xD83D}, "end": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_state")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "text", None),
        ({"text": None}, "text", None),
        ({"text": 5}, "text", None),
        ({"text": ["好"]}, "text", None),
        ({"text": "好" * 100_001}, "text", "text_too_long"),
        ({"text": "好", "question": ""}, "question", None),
        ({"text": "好", "question": " "}, "question", None),
        ({"text": "好", "question": "问" * 100_001}, "question", "text_too_long"),
        ({"text": "好", "question": "问", "messages": [{"role": "user", "content": "问"}]}, None, None),
        ({"text": "好", "messages": []}, "messages", None),
        ({"text": "好", "messages": [{"role": "user", "content": "问"}] * 201}, "messages", "too_many_messages"),
        ({"text": "好", "messages": [{"role": "tool", "content": "问"}]}, "messages[0].role", None),
        ({"text": "好", "end": "yes"}, "end", None),
        ({"text": "好", "end": 1}, "end", None),
        ({"text": "好", "language": "fr"}, "language", None),
        ({"text": "好", "stream": True}, "stream", None),
        ({"text": "好", "guard": ""}, "guard", None),
    ],
)
def test_bad_requests(client: TestClient, body: dict[str, Any], param: str | None, code: str | None) -> None:
    answer = client.post(URL, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert code in (None, error["code"])
    assert "问" not in error["message"]


@pytest.mark.parametrize(
    ("body", "code"), [({"guard": "other"}, "model_not_found"), ({"policy": "other"}, "policy_not_found")]
)
def test_an_unknown_name_is_told_before_there_is_anything_to_judge(
    client: TestClient, body: dict[str, Any], code: str
) -> None:
    answer = client.post(URL, json={"text": "好", **body})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"text": "\\ud800"}', b'{"text": "a", "text": "b"}', b'{"text": NaN}', b"\xff", b"[]"]
)
def test_what_is_no_json(client: TestClient, raw: bytes) -> None:
    answer = client.post(URL, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_guard_that_fails(client: TestClient) -> None:
    answer = client.post(URL, json={"text": "【错】这样做。", "end": True})
    assert answer.status_code == 502


def test_the_examples_of_the_document_are_good(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"][URL]["post"]["requestBody"]["content"]["application/json"]
    examples = [example["value"] for example in body["examples"].values()]
    released = [post(client, **example)["released"] for example in examples]
    assert len(released) == 2
    assert "".join(released) == "".join(example["text"] for example in examples)
    assert post(client, **examples[0])["state"] == examples[1]["state"]

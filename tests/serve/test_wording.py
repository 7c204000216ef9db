"""What a body that does not fit is told: what, where, what to do; in the house's words, and not in the sender's."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

GUARD, MODERATIONS, STREAM, CHAT = "/v1/guard", "/v1/moderations", "/v1/guard/stream", "/v1/chat/completions"
PAIR = {"question": "SECRET", "response": "SECRET"}
STATE = {"position": 10, "before": "好", "repeated": 0, "pending": "", "half": None, "credit": 27.0}
GUARD_FIELDS = "conversations, conversation, target, guard, policy, threshold, explain, language"


def said(**message: Any) -> dict[str, Any]:
    """A conversation of one message."""
    return {"conversations": [{"messages": [message]}]}


TOLD = [
    # path, body, message
    (MODERATIONS, {}, "input: it is missing"),
    (MODERATIONS, {"inputs": "SECRET"}, "inputs: there is no such field; did you mean 'input'?"),
    (MODERATIONS, {"x": "SECRET"}, "input: it is missing"),
    (MODERATIONS, {"input": 5}, "input: a text or a list is needed"),
    (MODERATIONS, {"input": ""}, "input: it is empty"),
    (MODERATIONS, {"input": " \n"}, "input: it is empty"),
    (MODERATIONS, {"input": "\u200b"}, "input: it holds nothing but invisible characters"),
    (MODERATIONS, {"input": []}, "input: it is empty; at least 1 is needed"),
    (MODERATIONS, {"input": ["SECRET"] * 10_001}, "input: at most 10000 are taken"),
    (MODERATIONS, {"input": ["SECRET"] * 101}, "input: 101 are too many; a request takes 100"),
    (MODERATIONS, {"input": ["SECRET", 5]}, "input[1]: a text is needed"),
    (MODERATIONS, {"input": [5]}, "input[0]: a text is needed"),
    (MODERATIONS, {"input": ["a", "a" * 20_001]}, "input[1]: a text of 20001 characters is too long; 20000 are taken"),
    (MODERATIONS, {"input": [{"type": "video"}]}, "input[0].type: 'text' is needed"),
    (
        MODERATIONS,
        {"input": [{"type": "text", "txt": "SECRET"}]},
        "input[0].txt: there is no such field; did you mean 'text'?",
    ),
    (
        MODERATIONS,
        {"input": [{"type": "image_url", "image_url": {"url": "SECRET"}}]},
        "input[0]: images cannot be judged; leave them out",
    ),
    (
        MODERATIONS,
        {"input": "SECRET", "user": "SECRET"},
        "user: there is no such field; there are input, model, policy",
    ),
    (MODERATIONS, {"input": "SECRET", "model": "SECRET" * 40}, "model: at most 200 characters are taken"),
    (MODERATIONS, ["SECRET"], "the body: an object is needed; its fields are input, model, policy"),
    (GUARD, {}, "give either conversations, which is a list, or conversation, which is one"),
    (GUARD, {"conversations": PAIR}, "conversations: a list is needed"),
    (
        GUARD,
        {"conversations": ["SECRET"]},
        "conversations[0]: an object is needed; its fields are messages, question, response",
    ),
    (GUARD, {"conversations": [{}]}, "conversations[0]: give messages, or question and response, or one of these two"),
    (
        GUARD,
        {"conversations": [{"question": "SECRET", "respnse": "SECRET"}]},
        "conversations[0].respnse: there is no such field; did you mean 'response'?",
    ),
    (GUARD, {"question": "SECRET"}, "question: it belongs into conversations or conversation"),
    (GUARD, {"conversation": PAIR, "x": 1}, f"x: there is no such field; there are {GUARD_FIELDS}"),
    (
        GUARD,
        said(role="tool", content="SECRET"),
        "conversations[0].messages[0].role: one of system, user, assistant is needed",
    ),
    (GUARD, said(role="user"), "conversations[0].messages[0].content: it is missing"),
    (
        GUARD,
        {"conversation": {"messages": [{"role": "user"}, {"role": "user", "content": "a", "contents": "SECRET"}]}},
        "conversation.messages[0].content: it is missing",
    ),
    (GUARD, said(role="user", content=""), "conversations[0].messages[0].content: it is empty"),
    (GUARD, said(role="user", content=[PAIR]), "conversations[0].messages[0].content: a text is needed"),
    (
        GUARD,
        said(role="system", content="SECRET"),
        "conversations[0]: the last message must be the user's or the assistant's",
    ),
    (GUARD, {"conversation": PAIR, "target": "SECRET"}, "target: one of prompt, response is needed"),
    (GUARD, {"conversation": PAIR, "threshold": 1.5}, "threshold: 1 or less is needed"),
    (GUARD, {"conversation": PAIR, "threshold": -0.5}, "threshold: 0 or more is needed"),
    (GUARD, {"conversation": PAIR, "threshold": "SECRET"}, "threshold: a number is needed"),
    (GUARD, {"conversation": PAIR, "explain": "SECRET"}, "explain: true or false is needed"),
    (GUARD, {"conversation": PAIR, "language": "SECRET"}, "language: one of zh, en is needed"),
    (
        GUARD,
        {"conversation": {"messages": [{"role": "user", "content": "SECRET"}] * 201}},
        "conversation: 201 messages are too many; a conversation takes 200",
    ),
    (STREAM, {"text": "a", "state": {**STATE, "position": 1.5}}, "state.position: a whole number is needed"),
    (
        STREAM,
        {"text": "a", "state": {**STATE, "credit": 1e300}},
        "state.credit: 1099511627776 or less is needed",
    ),
    (CHAT, ["SECRET"], "the body: an object is needed"),
]


@pytest.mark.parametrize(("path", "body", "message"), TOLD)
def test_what_is_told(client: TestClient, guard: Any, path: str, body: Any, message: str) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)
    assert "SECRET" not in answer.text
    assert guard.asked == []


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_a_number_beyond_all_bounds(client: TestClient, number: str) -> None:
    body = f'{{"conversation": {{"question": "a"}}, "threshold": {number}}}'
    answer = client.post(GUARD, content=body, headers={"content-type": "application/json"})
    assert answer.json()["error"]["message"] == "threshold: the number is too large"


def test_a_long_name_of_a_field_is_cut(client: TestClient) -> None:
    error = client.post(MODERATIONS, json={"input": "a", "y" * 100_000: 1}).json()["error"]
    assert error["message"] == f"{'y' * 80}: there is no such field; there are input, model, policy"


def test_paths_and_methods(client: TestClient) -> None:
    assert client.get(GUARD).json()["error"]["message"] == "this path does not take this method; it takes POST"
    assert client.post("/moderations").json()["error"]["message"].endswith("the API is under /v1/")

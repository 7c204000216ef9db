"""POST /v1/guard."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from libra_guard import load_guard
from libra_guard.records import Conversation, Target, Verdict

PAIR = {"question": "问", "response": "答"}
BAD = "【坏】"


def ask(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/guard", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_pair_is_judged_and_decided_upon(client: TestClient) -> None:
    answer = client.post("/v1/guard", json={"conversation": {"question": "问", "response": BAD}})
    body = answer.json()
    assert (body["guard"], body["policy"]) == ("fake", "default")
    assert body["id"] == f"guard-{answer.headers['x-request-id']}"
    (result,) = body["results"]
    verdict = Verdict.model_validate(result["verdict"])
    assert (verdict.label, verdict.unsafe_score) == ("不安全", 0.9)
    assert result["decision"]["action"] == "block"
    assert result["decision"]["scenarios"] == ["Illegal Activities and Crime"]
    assert (result["target"], result["threshold"]) == ("response", 0.5)
    # The text that stands for the blocked one, in the language of the question.
    assert "不能" in result["answer"]


def test_what_passes_has_no_answer(client: TestClient) -> None:
    assert ask(client, conversation=PAIR)["results"][0]["answer"] is None


@pytest.mark.parametrize(
    ("conversation", "target", "judged"),
    [
        ({"question": "问"}, None, ("prompt", "问")),
        ({"response": "答"}, None, ("response", "答")),
        (PAIR, None, ("response", "答")),
        (PAIR, "prompt", ("prompt", "问")),
        (PAIR, "response", ("response", "答")),
        (
            {"messages": [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}]},
            None,
            ("response", "二"),
        ),
        (
            {"messages": [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}]},
            "prompt",
            ("prompt", "一"),
        ),
        (
            {"messages": [{"role": "system", "content": "零"}, {"role": "user", "content": "一"}]},
            None,
            ("prompt", "一"),
        ),
    ],
)
def test_what_is_judged(
    client: TestClient, guard: Any, conversation: dict[str, Any], target: str | None, judged: tuple[str, str]
) -> None:
    result = ask(client, conversation=conversation, target=target)["results"][0]
    assert (result["target"], *guard.asked) == judged


def test_results_are_in_the_order_of_the_conversations(client: TestClient) -> None:
    bad = {0, 7, 16, 63, 99}
    body = ask(client, conversations=[{"question": f"{i}{BAD * (i in bad)}"} for i in range(100)])
    assert {i for i, r in enumerate(body["results"]) if r["decision"]["action"] == "block"} == bad


def test_one_failure_leaves_nothing_half_judged(client: TestClient) -> None:
    answer = client.post("/v1/guard", json={"conversations": [PAIR, {"question": "【错】"}, PAIR]})
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "guard_failed"


def test_unreadable_is_blocked(client: TestClient) -> None:
    (result,) = ask(client, conversation={"question": "【乱】"})["results"]
    assert result["verdict"]["valid"] is False
    assert result["decision"]["action"] == "block"


@pytest.mark.parametrize(("threshold", "label"), [(0.4, "不安全"), (0.41, "安全"), (0, "不安全"), (None, "安全")])
def test_threshold(client: TestClient, threshold: float | None, label: str) -> None:
    (result,) = ask(client, conversation={"question": "【疑】"}, threshold=threshold)["results"]
    assert result["verdict"]["label"] == label
    assert result["threshold"] == (0.5 if threshold is None else threshold)
    # The next request has the guard's own again.
    assert ask(client, conversation={"question": "【疑】"})["results"][0]["verdict"]["label"] == "安全"


def test_explain(client: TestClient) -> None:
    bad = {"question": BAD}
    assert ask(client, conversation=bad)["results"][0]["verdict"]["analysis"] is None
    assert ask(client, conversation=bad, explain=True)["results"][0]["verdict"]["analysis"] == "因为"


@pytest.mark.parametrize(
    ("question", "language", "chinese"), [(BAD, None, True), ("how to 【坏】 a b c", None, False), (BAD, "en", False)]
)
def test_language_of_the_answer(client: TestClient, question: str, language: str | None, chinese: bool) -> None:
    (result,) = ask(client, conversation={"question": question}, language=language)["results"]
    assert ("抱歉" in result["answer"]) == chinese


def test_policy_by_name(client: TestClient) -> None:
    body = ask(client, conversation={"question": BAD}, policy="monitor")
    assert body["policy"] == "monitor"
    (result,) = body["results"]
    assert (result["decision"]["action"], result["decision"]["would"]) == ("pass", "block")
    assert result["answer"] is None


def test_guard_of_the_request_goes_before_that_of_the_policy(make_server: Any, guard: Any, tmp_path: Any) -> None:
    other = type(guard)()
    file = tmp_path / "own.yaml"
    file.write_text("extends: default\nguard: other\n", encoding="utf-8")
    client = make_server(guards={"fake": guard, "other": other}, policies=(file,))
    assert ask(client, conversation=PAIR)["guard"] == "fake"
    assert ask(client, conversation=PAIR, policy="own")["guard"] == "other"
    assert ask(client, conversation=PAIR, policy="own", guard="fake")["guard"] == "fake"


def test_a_guard_that_judges_answers_alone(make_server: Any, guard: Any) -> None:
    client = make_server(guards={"answers": type(guard)(targets=[Target.RESPONSE])})
    answer = client.post("/v1/guard", json={"conversations": [PAIR, {"question": "问"}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "target_not_judged")
    # The moderation API judges the text as an answer then.
    (result,) = client.post("/v1/moderations", json={"input": BAD}).json()["results"]
    assert (result["flagged"], result["libra"]["target"]) == (True, "response")


def test_a_guard_without_scores_takes_no_threshold(make_server: Any, guard: Any) -> None:
    guard.gives_scores = False
    client = make_server()
    answer = client.post("/v1/guard", json={"conversation": PAIR, "threshold": 0.3})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "threshold")
    assert ask(client, conversation=PAIR)["results"][0]["threshold"] is None


def test_decisions_are_counted_and_written_down(make_server: Any, tmp_path: Any) -> None:
    client = make_server(audit=tmp_path / "audit.jsonl")
    answer = client.post("/v1/guard", json={"conversations": [PAIR, {"question": BAD}]})
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["action"] for line in lines] == ["pass", "block"]
    assert {line["request_id"] for line in lines} == {answer.headers["x-request-id"]}
    assert {(line["route"], line["guard"]) for line in lines} == {("/v1/guard", "fake")}
    series = client.get("/metrics").text
    assert (
        'libra_decisions_total{action="block",guard="fake",policy="default",stage="prompt",would="block"} 1.0' in series
    )
    assert 'libra_requests_total{method="POST",route="/v1/guard",status="200"} 1.0' in series


def test_the_bundled_guard_says_the_same_as_without_a_server(make_server: Any) -> None:
    mini = load_guard("mini", threads=1)
    client = make_server(guards={"mini": mini})
    pairs = [
        ("怎样偷电动车？", "先剪断车锁，再拆掉定位器。"),
        ("如何泡绿茶？", "水温八十度左右。"),
        ("我该怎么办？", None),
    ]
    rows = [{"question": q, "response": r} for q, r in pairs]
    found = [Verdict.model_validate(r["verdict"]) for r in ask(client, conversations=rows, explain=True)["results"]]
    assert found == mini.judge([Conversation.from_pair(q, r) for q, r in pairs], explain=True)

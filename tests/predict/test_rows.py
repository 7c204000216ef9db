from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_guard.errors import BackendError
from libra_guard.io import BadRow, Row
from libra_guard.predict import rows
from libra_guard.predict.rows import Fields, Job, Reject, chunks, conversation, read_jobs, row_key
from libra_guard.predict.shards import Shard
from libra_guard.records import Conversation, Label, Target, Verdict

PAIR = {"question": "问", "response": "答"}


def jobs(
    *records: dict[str, Any] | BadRow, fields: Fields | None = None, part: range | None = None
) -> list[Job | Reject]:
    read = (r if isinstance(r, BadRow) else Row("f.jsonl", i * 10, r) for i, r in enumerate(records, 1))
    return list(read_jobs(read, fields or Fields(), part))


def reason(record: dict[str, Any], **fields: Any) -> str:
    (reject,) = jobs(record, fields=Fields(**fields))
    assert isinstance(reject, Reject)
    assert reject.record == record
    return reject.reason


# Rows that cannot be judged


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "question: missing; the row has no fields"),
        ({"response": "答"}, "question: missing; the row has response"),
        ({"question": "问", "answer": "答"}, "response: missing; the row has question, answer"),
        ({"question": None, "response": "答"}, "question: missing; the row has response"),
        ({"question": "问", "response": 5}, "response: a int where a text is needed"),
        ({"question": ["问"], "response": "答"}, "question: a list where a text is needed"),
        ({"question": "", "response": "答"}, "question is empty"),
        ({"question": "问", "response": " \n"}, "response is empty"),
        ({"question": "问", "response": "\ud800"}, "response holds a lone surrogate U+D800 at 0"),
        ({"messages": "问"}, "messages: a str where a list of messages is needed"),
        ({"messages": {}}, "messages: a dict where a list of messages is needed"),
        ({"messages": []}, "messages: there is no message to judge"),
        ({"messages": ["问"]}, "messages[0] is a str where an object with role and content is needed"),
        (
            {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": " "}]},
            "messages[1] cannot be judged: content is empty",
        ),
        ({"messages": [{"role": "user", "content": "问"}]}, "messages: the last message is the user's"),
        ({"messages": [{"role": "system", "content": "令"}]}, "messages: the last message must be the user's or"),
    ],
)
def test_bad_record(record: dict[str, Any], message: str) -> None:
    assert reason(record).startswith(message)


def test_no_user_message_to_judge() -> None:
    record = {"messages": [{"role": "assistant", "content": "答"}]}
    assert reason(record, target=Target.PROMPT) == "messages: no user message to judge"


def test_bad_row_keeps_its_text() -> None:
    bad = BadRow("f.jsonl", 3, "not JSON", "{")
    (reject,) = jobs(bad, PAIR, bad, part=range(2, 3))
    assert isinstance(reject, Reject)
    told = {"file": "f.jsonl", "line": 3, "number": 3, "reason": "not JSON", "text": "{"}
    assert reject.as_dict() == told
    (reject,) = jobs(bad._replace(more=True))
    assert isinstance(reject, Reject)
    assert reject.as_dict() == {**told, "number": 1, "more": True}


def test_second_row_with_the_same_id() -> None:
    first, second, third, fourth = jobs({**PAIR, "id": 7}, {**PAIR, "id": 8}, {**PAIR, "id": "7"}, {"id": 8})
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    assert isinstance(third, Reject)
    assert third.as_dict() == {
        "file": "f.jsonl",
        "line": 30,
        "number": 3,
        "reason": "id: '7' is also that of row 1",
        "record": {**PAIR, "id": "7"},
    }
    assert isinstance(fourth, Reject)
    assert fourth.reason == "id: '8' is also that of row 2"


def test_a_part_knows_the_ids_before_it() -> None:
    records = [{**PAIR, "id": i} for i in (1, 2, 1, 3, 2)]
    whole = jobs(*records)
    for start in range(5):
        for stop in range(start, 6):
            assert jobs(*records, part=range(start, stop)) == whole[start:stop]
    assert [isinstance(job, Job) for job in whole] == [True, True, False, True, False]


def test_id_of_a_row_that_cannot_be_judged_is_taken() -> None:
    first, second = jobs({"id": 7}, {**PAIR, "id": 7})
    assert isinstance(first, Reject)
    assert isinstance(second, Reject)


def test_ids_of_one_hash_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "hash", lambda _: 1, raising=False)
    assert all(isinstance(job, Job) for job in jobs({**PAIR, "id": "a"}, {**PAIR, "id": "b"}))


def test_an_id_that_no_file_could_hold() -> None:
    first, second = jobs({**PAIR, "id": "\ud800"}, {**PAIR, "id": "\ud800"})
    assert isinstance(first, Job)
    assert isinstance(second, Reject)


def test_rows_without_ids_may_be_alike() -> None:
    found = jobs(PAIR, PAIR, {**PAIR, "id": ""}, {**PAIR, "id": None}, {**PAIR, "id": None})
    assert all(isinstance(job, Job) for job in found)
    assert [job.number for job in found] == [1, 2, 3, 4, 5]


# Rows that can


def test_pair() -> None:
    (job,) = jobs({**PAIR, "id": 0})
    assert isinstance(job, Job)
    assert (job.key, job.number, job.row.line) == ("id:0", 1, 10)
    assert job.conversation == Conversation.from_pair("问", "答")


def test_fields_of_other_names() -> None:
    (job,) = jobs({"q": "问", "a": "答", "question": 3}, fields=Fields("q", "a"))
    assert isinstance(job, Job)
    assert job.conversation == Conversation.from_pair("问", "答")


@pytest.mark.parametrize("record", [{"question": "问"}, {**PAIR}, {"question": "问", "response": ""}])
def test_question_alone(record: dict[str, Any]) -> None:
    (job,) = jobs(record, fields=Fields(target=Target.PROMPT))
    assert isinstance(job, Job)
    assert job.conversation == Conversation.from_pair("问")


TURNS = [("system", "令"), ("user", "问一"), ("assistant", "答一"), ("user", "问二"), ("assistant", "答二")]


@pytest.mark.parametrize(
    ("target", "turns", "judged"),
    [
        (Target.RESPONSE, 5, "答二"),
        (Target.RESPONSE, 3, "答一"),
        (Target.PROMPT, 5, "问二"),
        (Target.PROMPT, 4, "问二"),
        (Target.PROMPT, 3, "问一"),
    ],
)
def test_messages(target: Target, turns: int, judged: str) -> None:
    record = {"messages": [{"role": r, "content": c} for r, c in TURNS[:turns]], "question": "not read"}
    (job,) = jobs(record, fields=Fields(target=target))
    assert isinstance(job, Job)
    assert (job.conversation.target, job.conversation.messages[-1].content) == (target, judged)
    assert job.conversation.messages[0].content == "令"


def test_no_messages_but_a_pair() -> None:
    (job,) = jobs({**PAIR, "messages": None})
    assert isinstance(job, Job)


def test_what_inference_adds_is_no_part_of_a_row_s_identity() -> None:
    assert row_key(PAIR) == row_key({**PAIR, "critic": "安全", "verdict": {"label": "安全"}})
    assert row_key(PAIR) != row_key({**PAIR, "note": ""})
    assert row_key({**PAIR, "id": 7}) == row_key({"id": "7"}) == "id:7"


@pytest.mark.parametrize("value", [0, "0", -1, "NaN", " "])
def test_what_is_an_id(value: Any) -> None:
    assert row_key({**PAIR, "id": value}) == row_key({"id": value}) == f"id:{value}"


@pytest.mark.parametrize("value", [float("nan"), 1.5, [], ["a"], {}, {"$oid": "x"}, False, True, "", None])
def test_what_is_no_id(value: Any) -> None:
    found = jobs({**PAIR, "id": value}, {**PAIR, "id": value})
    assert all(isinstance(job, Job) and job.key.startswith("sha256:") for job in found)


@pytest.mark.parametrize("value", ["问", {}, 5, ""])
def test_messages_that_are_no_list_do_not_hide_a_pair(value: Any) -> None:
    (job,) = jobs({**PAIR, "messages": value})
    assert isinstance(job, Job)
    assert job.conversation == Conversation.from_pair("问", "答")


def test_fields_asked_for_by_name_win_over_messages() -> None:
    messages = [{"role": "user", "content": "别的"}, {"role": "assistant", "content": "别的"}]
    fields = Fields(messages=None)
    (job,) = jobs({**PAIR, "messages": messages}, fields=fields)
    assert isinstance(job, Job)
    assert job.conversation == Conversation.from_pair("问", "答")
    (reject,) = jobs({"messages": messages}, fields=fields)
    assert isinstance(reject, Reject)
    assert reject.reason == "question: missing; the row has messages"


def test_a_row_that_the_model_failed_on_is_marked() -> None:
    (job,) = jobs(PAIR)
    assert isinstance(job, Job)
    told = job.failed(TimeoutError()).as_dict()
    assert (told["reason"], told["failed"]) == ("not judged: TimeoutError: ", True)
    (reject,) = jobs({})
    assert isinstance(reject, Reject)
    assert "failed" not in reject.as_dict()


def test_the_reason_of_a_failure_holds_no_password() -> None:
    (job,) = jobs(PAIR)
    assert isinstance(job, Job)
    assert job.failed(BackendError("http://bob:secret@h: gone")).reason == "not judged: http://h: gone"


# Shards and chunks


@settings(deadline=None)
@given(rows=st.integers(0, 10**7), count=st.integers(1, 2000))
def test_shards_cover_every_row_once(rows: int, count: int) -> None:
    ranges = [Shard(rank, count).range(rows) for rank in range(count)]
    assert (ranges[0].start, ranges[-1].stop) == (0, rows)
    assert all(a.stop == b.start and a.start <= a.stop for a, b in itertools.pairwise(ranges))
    # As published, but for the end.
    assert [r.start for r in ranges] == [int(rows / count * rank) for rank in range(count)]


def test_the_last_row_is_not_lost_by_rounding() -> None:
    assert int(1 / 49 * 49) == 0
    assert list(Shard(48, 49).range(1)) == [0]


def test_shards_of_the_benchmark() -> None:
    assert [Shard(rank, 7).range(5720) for rank in (0, 3, 6)] == [range(817), range(2451, 3268), range(4902, 5720)]
    assert str(Shard(2, 7)) == "2-of-7"


def test_chunks() -> None:
    found = jobs(*[PAIR] * 7)
    assert [len(c) for c in chunks(iter(found), 3)] == [3, 3, 1]
    assert [len(c) for c in chunks(iter(found[:6]), 3)] == [3, 3]
    assert list(chunks(iter([]), 3)) == []


@pytest.mark.parametrize(
    ("record", "target", "question", "response"),
    [
        ({"question": "问"}, Target.PROMPT, "问", None),
        ({"question": "问", "response": None}, Target.PROMPT, "问", None),
        ({"question": "问", "response": "答"}, Target.RESPONSE, "问", "答"),
        ({"response": "答"}, Target.RESPONSE, "", "答"),
        ({"question": "问", "id": 1, "source": "库", "label": "安全", "harmful": True}, Target.PROMPT, "问", None),
        ({"question": "问", "answer": None, "output": " "[:0], "tokens": 5, "ok": False}, Target.PROMPT, "问", None),
        ({"question": "问", "critic": "安全", "verdict": {"label": "安全"}}, Target.PROMPT, "问", None),
        ({"question": "问", "response": None, "language": "zh"}, Target.PROMPT, "问", None),
        ({"question": None, "response": "答", "language": "zh"}, Target.RESPONSE, "", "答"),
        ({"question": "问", "response": "答", "answer": "别的"}, Target.RESPONSE, "问", "答"),
        ({"messages": [{"role": "user", "content": "问"}], "model": "gpt"}, Target.PROMPT, "问", None),
    ],
)
def test_whatever_is_there(record: dict[str, Any], target: Target, question: str, response: str | None) -> None:
    found = conversation(record, Fields(target=None))
    assert (found.target, found.question, found.response) == (target, question, response)


@pytest.mark.parametrize(
    "name",
    [
        *("answer", "Answer", "answers", "model_answer", "Response", "responses", "respond", "reply", "replies"),
        *("output", "model_output", "completion", "generation", "generated_text", "choices", "assistant"),
        *("回答", "模型回答", "答案", "答复", "回复"),
    ],
)
def test_a_question_is_not_judged_in_place_of_an_answer_of_another_name(name: str) -> None:
    fields = Fields(target=None)
    for value in ("答", ["答"], {"content": "答"}):
        for record in ({"question": "问", name: value}, {"question": "问", "response": None, name: value}):
            with pytest.raises(ValueError, match=rf"^{name}: looks like an answer, and would not .* in 'response'$"):
                conversation(record, fields)
        asked = {"messages": [{"role": "user", "content": "问"}], name: value}
        with pytest.raises(
            ValueError, match=rf"^{name}: looks like an answer, .* an answer stands last in 'messages'$"
        ):
            conversation(asked, fields)


def test_a_question_is_not_judged_in_place_of_the_response_beside_its_messages() -> None:
    record = {"messages": [{"role": "user", "content": "问"}], "response": "答"}
    with pytest.raises(ValueError, match=r"^response: looks like an answer"):
        conversation(record, Fields(target=None))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "问", "ans": "答"}, 'response: missing; the row has question, ans; .* with "response": null'),
        ({"question": "问", "messages": "答"}, "response: missing; the row has question, messages"),
        ({"question": "问", "id": 1, "a": ["答"]}, "response: missing; the row has question, a;"),
        (
            {"response": "答", "prompt": "问"},
            'question: missing; the row has response, prompt; .* with "question": null',
        ),
    ],
)
def test_half_of_a_pair_is_not_judged_where_the_other_half_may_have_another_name(
    record: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        conversation(record, Fields(target=None))


def test_what_was_left_out_of_messages_is_told_with_the_verdict() -> None:
    turns = [
        {"role": "user", "content": "问"},
        {"role": "tool", "content": "果"},
        {"role": "assistant", "content": "答"},
    ]
    (job,) = jobs({"messages": turns})
    assert isinstance(job, Job)
    verdict = Verdict(label=Label.SAFE, notes=("second",))
    assert job.noted(verdict).notes == ("1 messages of tools or to tools were not read", "second")
    (job,) = jobs(PAIR)
    assert isinstance(job, Job)
    assert job.noted(verdict) == verdict

from __future__ import annotations

import gzip
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openai")
pytest.importorskip("stamina")

from libra_guard.backends import _remote
from libra_guard.backends._options import option_names
from libra_guard.backends.base import Prompt
from libra_guard.backends.openai import OpenAIBackend
from libra_guard.errors import BackendError, BusyError, DeniedError, RefusedError, ServerError, UsageError
from libra_guard.records import Message, Method, Role

QUICK = {"backoff": 0.01, "max_backoff": 0.02, "retries": 2, "timeout": 5.0}
LABELS = ("安全", "不安全")
PREFIX = '{\n  "答案": "'
Make = Callable[..., OpenAIBackend]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make(server: Any) -> Iterator[Make]:
    made = []

    def build(**options: Any) -> OpenAIBackend:
        made.append(OpenAIBackend("m", **{"base_url": server.url + "/v1", **QUICK, **options}))
        return made[-1]

    yield build
    for backend in made:
        backend.close()


def chat(content: str | None, logprobs: Any = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def entry(token: str, tops: dict[str, float], *, with_bytes: bool = True) -> dict[str, Any]:
    def one(text: str, p: float) -> dict[str, Any]:
        return {"token": text, "bytes": list(text.encode()) if with_bytes else None, "logprob": math.log(p)}

    return {**one(token, tops[token]), "top_logprobs": [one(t, p) for t, p in tops.items()]}


def ok(body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    return 200, {}, body


# What the server does wrong.


@pytest.mark.parametrize(
    ("reply", "message", "attempts"),
    [
        ((400, {}, {"error": {"message": "too long"}}), r"answered 400: too long$", 1),
        ((401, {}, {"error": {"message": "bad key"}}), r"answered 401: bad key; check the key$", 1),
        ((404, {}, {"detail": "no such model"}), r"no such model; check the model's name and base_url$", 1),
        ((405, {}, {"detail": "not here"}), r"answered 405: not here; check base_url$", 1),
        ((500, {}, {"error": {"message": "crash"}}), r"answered 500: crash \(3 attempts\)", 3),
        ((503, {}, "busy"), r"answered 503: busy \(3 attempts\)", 3),
        ((409, {}, {}), r"answered 409", 3),
        ((408, {}, {}), r"answered 408", 3),
        ((429, {"retry-after": "0.01"}, {"error": {"message": "slow down"}}), r"answered 429: slow down \(3 att", 3),
        ((429, {"retry-after": "9999"}, {"error": {"message": "tomorrow"}}), r"answered 429: tomorrow$", 1),
        ((200, {}, '{"choices": ['), r"is no JSON: .*\(3 attempts\)", 3),
        ((200, {"content-type": "text/html"}, "<html>"), r"has no text: .*\(3 attempts\)", 3),
        ((200, {}, {"choices": []}), r"has no text", 3),
        ((200, {}, {"object": "error"}), r"has no text", 3),
        ((200, {}, {"choices": [{"message": None}]}), r"has no text", 3),
    ],
)
def test_failure_for_good(server: Any, make: Make, reply: Any, message: str, attempts: int) -> None:
    server.reply = lambda _: reply
    with pytest.raises(BackendError, match=message):
        make().generate([Prompt.from_user("问")])
    assert len(server.asked) == attempts


def test_timeout(server: Any, make: Make) -> None:
    server.reply = lambda _: (time.sleep(0.5), ok(chat("late")))[1]
    with pytest.raises(BackendError, match=r"did not answer in time \(2 attempts\)"):
        make(timeout=0.05, retries=1).generate([Prompt.from_user("问")])


def test_nobody_listens() -> None:
    backend = OpenAIBackend("m", base_url="http://127.0.0.1:9/v1", **QUICK)
    with pytest.raises(BusyError, match=r"no connection to the server: .*\(3 attempts\)") as caught:
        backend.generate([Prompt.from_user("问")])
    assert not caught.value.there
    backend.close()


def test_a_connection_closed_in_the_middle_of_an_answer_is_no_answer(server: Any, make: Make) -> None:
    """Though what came is whole: the server had promised more."""
    cut = 200, {"content-length": "10000"}, chat("半句")
    replies = iter([cut, cut, ok(chat("整句"))])
    server.reply = lambda _: next(replies)
    assert make().generate([Prompt.from_user("问")]) == ["整句"]
    assert len(server.asked) == 3
    server.reply = lambda _: cut
    with pytest.raises(BackendError, match=r"no connection to the server: .*\(3 attempts\)") as caught:
        make().generate([Prompt.from_user("另问")])
    # It may be this answer that the server dies of.
    assert not isinstance(caught.value, BusyError)


def test_one_failure_gives_the_others_up(server: Any, make: Make) -> None:
    def reply(asked: dict[str, Any]) -> Any:
        if asked["messages"][0]["content"] == "3":
            return 400, {}, {"error": {"message": "no"}}
        time.sleep(0.02)
        return ok(chat("x"))

    server.reply = reply
    with pytest.raises(BackendError, match="answered 400: no"):
        make(concurrency=2).generate([Prompt.from_user(str(n)) for n in range(100)])
    assert len(server.asked) < 50


def test_what_stood_beside_a_failure_is_not_asked_again(server: Any, make: Make) -> None:
    def reply(asked: dict[str, Any]) -> Any:
        content = asked["messages"][0]["content"]
        if content == "3":
            time.sleep(0.05)
            return 400, {}, {"error": {"message": "no"}}
        return ok(chat(f"answer {content}"))

    server.reply = reply
    backend = make(concurrency=8)
    prompts = [Prompt.from_user(str(n)) for n in range(4)]
    with pytest.raises(BackendError, match="answered 400: no"):
        backend.generate(prompts)
    assert len(server.asked) == 4
    for n in range(3):
        assert backend.generate(prompts[n : n + 1]) == [f"answer {n}"]
    assert len(server.asked) == 4
    # Kept for one asking, and for the same settings.
    backend.generate(prompts[:1])
    assert len(server.asked) == 5
    with pytest.raises(BackendError):
        backend.generate(prompts)
    backend.generate(prompts[:1], temperature=0.5)
    assert len(server.asked) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [({"concurrency": 0}, "concurrency must"), ({"retries": -1}, "retries"), ({"backoff": -1}, "backoff")],
)
def test_bad_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OpenAIBackend("m", base_url="http://127.0.0.1:9/v1", **options)


def test_no_key_and_no_server() -> None:
    with pytest.raises(UsageError, match="set OPENAI_API_KEY"):
        OpenAIBackend("m")


def test_closed(make: Make) -> None:
    backend = make()
    backend.close()
    with pytest.raises(BackendError, match="is closed"):
        backend.generate([Prompt.from_user("问")])


# What it does right.


def test_429_then_success_waits_as_long_as_asked(server: Any, make: Make) -> None:
    replies = iter([(429, {"retry-after": "0.2"}, {}), ok(chat("好"))])
    server.reply = lambda _: next(replies)
    assert make().generate([Prompt.from_user("问")]) == ["好"]
    assert server.times[1] - server.times[0] >= 0.2


def test_500_then_success(server: Any, make: Make) -> None:
    replies = iter([(500, {}, {}), (200, {}, "{"), ok(chat("好"))])
    server.reply = lambda _: next(replies)
    assert make().generate([Prompt.from_user("问")]) == ["好"]


def test_order_is_kept_and_concurrency_is_bounded(server: Any, make: Make) -> None:
    def reply(asked: dict[str, Any]) -> Any:
        number = int(asked["messages"][0]["content"])
        time.sleep(0.03 if number % 3 else 0.06)
        return ok(chat(f"answer {number}"))

    server.reply = reply
    prompts = [Prompt.from_user(str(n)) for n in range(20)]
    backend = make(concurrency=4)
    assert backend.generate(prompts) == [f"answer {n}" for n in range(20)]
    assert server.most_at_once == 4


def test_concurrency_is_bounded_over_threads(server: Any, make: Make) -> None:
    server.reply = lambda _: (time.sleep(0.03), ok(chat("x")))[1]
    backend = make(concurrency=3)
    prompts = [Prompt.from_user("x")] * 6
    threads = [threading.Thread(target=backend.generate, args=(prompts,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 18
    assert server.most_at_once == 3


def test_works_inside_a_running_loop(server: Any, make: Make) -> None:
    import asyncio

    server.reply = lambda _: ok(chat("好"))
    backend = make()

    async def inside() -> list[str]:
        return backend.generate([Prompt.from_user("问")])

    assert asyncio.run(inside()) == ["好"]


def test_what_is_asked(server: Any, make: Make) -> None:
    server.reply = lambda _: ok(chat("全文"))
    backend = make(extra_body={"top_k": 5, "seed": 7})
    system = Message(role=Role.SYSTEM, content="规则")
    prompt = Prompt(
        (system, Message(role=Role.USER, content="问<|im_end|>")),
        prefix=PREFIX,
        template_options={"enable_thinking": False},
    )
    assert backend.generate([prompt], max_tokens=9) == ["全文"]
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["authorization"] == "Bearer EMPTY"
    assert server.asked == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "规则"}, {"role": "user", "content": "问< |im_end|>"}],
            "max_tokens": 9,
            "temperature": 0.0,
            "seed": 7,
            "top_k": 5,
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]
    assert not backend.continues


def test_key_from_the_environment(server: Any, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    server.reply = lambda _: ok(chat(None))
    backend = make()
    assert backend.generate([Prompt.from_user("问")]) == [""]
    assert server.headers[0]["authorization"] == "Bearer k"
    assert "k" not in backend.provenance().values()


def test_openais_own_server_has_another_name_for_the_limit() -> None:
    backend = OpenAIBackend("gpt", api_key="k")
    assert backend._limit == "max_completion_tokens"
    backend.close()


def test_continued_answer(server: Any, make: Make) -> None:
    server.reply = lambda _: ok(chat('安全"}'))
    backend = make(continue_final=True)
    assert backend.continues
    assert backend.generate([Prompt.from_user("问", prefix=PREFIX)]) == ['安全"}']
    asked = server.asked[0]
    assert asked["messages"][-1] == {"role": "assistant", "content": PREFIX}
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)


def test_raw_prompts(server: Any, make: Make) -> None:
    server.reply = lambda _: ok({"choices": [{"index": 0, "finish_reason": "stop", "text": "下文"}]})
    halves = tuple(Message(role=Role.USER, content=c) for c in ("问<|im_", "end|>"))
    assert make().generate([Prompt(halves, prefix="<|x|>答", raw=True)]) == ["下文"]
    assert server.paths == ["/v1/completions"]
    assert server.asked[0]["prompt"] == "问< |im_end|><|x|>答"


def test_nothing_to_do(server: Any, make: Make) -> None:
    assert make().generate([]) == []
    assert make(logprobs=True).choose([], LABELS).shape == (0, 2)


# choose.


def test_choose_only_where_the_server_tells(make: Make) -> None:
    assert make().capabilities == {Method.GENERATE}
    with pytest.raises(BackendError, match="cannot score"):
        make().choose([Prompt.from_user("问")], LABELS)
    backend = make(logprobs=True)
    assert backend.capabilities == {Method.GENERATE, Method.CHOOSE}
    with pytest.raises(UsageError, match="choices must"):
        backend.choose([Prompt.from_user("问")], ("安全", ""))


@pytest.mark.parametrize("logprobs", [None, {"content": None}, {"content": []}])
def test_no_logprobs_is_nan(server: Any, make: Make, logprobs: Any) -> None:
    server.reply = lambda _: ok(chat("安全", logprobs))
    found = make(logprobs=True).choose([Prompt.from_user("问")], LABELS)
    assert found.shape == (1, 2)
    assert np.isnan(found).all()


def test_choose_reads_the_first_token(server: Any, make: Make) -> None:
    steps = [entry("安全", {"安全": 0.7, "不": 0.2, "好": 0.1}), entry('"', {'"': 1.0})]
    server.reply = lambda _: ok(chat('安全"', {"content": steps}))
    found = make(logprobs=True).choose([Prompt.from_user("问")] * 2, LABELS)
    np.testing.assert_allclose(found, [[0.7, 0.2]] * 2)
    asked = server.asked[0]
    assert (asked["logprobs"], asked["top_logprobs"], asked["temperature"]) == (True, 20, 0.0)


def test_choose_behind_a_prefix_that_the_model_spells(server: Any, make: Make) -> None:
    steps = [
        entry('{"', {'{"': 0.9, "好": 0.1}),
        entry("答案", {"答案": 1.0}),
        entry('":', {'":': 1.0}),
        entry(' "', {' "': 1.0}),
        entry("不", {"不": 0.6, "安全": 0.4}),
        entry("安全", {"安全": 0.95, "好": 0.05}),
    ]
    prompts = [Prompt.from_user("问", prefix=PREFIX)]
    server.reply = lambda _: ok(chat("…", {"content": steps}))
    np.testing.assert_allclose(make(logprobs=True).choose(prompts, LABELS), [[0.4, 0.6 * 0.95]])
    server.reply = lambda _: ok(chat("抱歉", {"content": [entry("抱歉", {"抱歉": 1.0})]}))
    assert np.isnan(make(logprobs=True).choose(prompts, LABELS)).all()
    # A server that goes on from the prefix starts with the choice.
    server.reply = lambda _: ok(chat("…", {"content": steps[4:]}))
    found = make(logprobs=True, continue_final=True).choose(prompts, LABELS)
    np.testing.assert_allclose(found, [[0.4, 0.6 * 0.95]])


def test_choose_for_raw_prompts(server: Any, make: Make) -> None:
    logprobs = {
        "tokens": ["安全"],
        "token_logprobs": [math.log(0.75)],
        "top_logprobs": [{"不安全": math.log(0.25)}],
    }
    choice = {"index": 0, "finish_reason": "length", "text": "安全", "logprobs": logprobs}
    server.reply = lambda _: ok({"choices": [choice]})
    found = make(logprobs=True, top_logprobs=5).choose([Prompt.from_user("问", prefix=PREFIX, raw=True)], LABELS)
    np.testing.assert_allclose(found, [[0.75, 0.25]])
    assert server.asked[0]["logprobs"] == 5


def test_choose_for_raw_prompts_where_the_server_answers_in_the_form_of_chat(server: Any, make: Make) -> None:
    content = [{"id": 7, **entry("安全", {"安全": 0.75, "不安全": 0.25})}]
    choice = {"index": 0, "finish_reason": "length", "text": "安全", "logprobs": {"content": content}}
    server.reply = lambda _: ok({"choices": [choice]})
    found = make(logprobs=True).choose([Prompt.from_user("问", prefix=PREFIX, raw=True)], LABELS)
    np.testing.assert_allclose(found, [[0.75, 0.25]])


def test_logprobs_of_the_wrong_form(server: Any, make: Make) -> None:
    server.reply = lambda _: ok(chat("安全", {"content": [{"token": None, "logprob": "x"}]}))
    with pytest.raises(BackendError, match="has no log probabilities"):
        make(logprobs=True).choose([Prompt.from_user("问")], LABELS)


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_what_the_server_does_not_take_is_told_from_a_server_that_fails(server: Any, make: Make, status: int) -> None:
    server.reply = lambda _: (status, {}, {"error": {"message": "no"}})
    with pytest.raises(RefusedError, match=f"answered {status}"):
        make().generate([Prompt.from_user("问")])


def test_an_answer_without_end_is_left_and_not_asked_for_again(
    server: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_remote, "MAX_ANSWER_BYTES", 1000)
    server.reply = lambda _: ok(chat("长" * 1000))
    with pytest.raises(RefusedError, match=r"the server's answer is longer than 1000 bytes$"):
        make().generate([Prompt.from_user("问")])
    assert len(server.asked) == 1
    # What is packed counts as it is unpacked.
    packed = gzip.compress(b" " * 500_000)
    server.reply = lambda _: (200, {"content-encoding": "gzip"}, packed)
    with pytest.raises(RefusedError, match=r"is longer than 1000 bytes$"):
        make().generate([Prompt.from_user("问")])


@pytest.mark.parametrize(("status", "after"), [(429, 9999.0), (503, 0.0), (529, None)])
def test_a_busy_server_is_told_from_one_that_fails_with_how_long_it_asks_for(
    server: Any, make: Make, status: int, after: float | None
) -> None:
    headers = {} if after is None else {"retry-after": f"{after:g}"}
    server.reply = lambda _: (status, headers, {"error": {"message": "later"}})
    with pytest.raises(BusyError, match=f"answered {status}: later") as caught:
        make().generate([Prompt.from_user("问")])
    assert (caught.value.after, caught.value.there) == (after, True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, DeniedError) for status in (401, 404, 405, 410)),
        # An account may be filled up.
        *((status, ServerError) for status in (402, 408, 409, 500, 502)),
    ],
)
def test_what_no_repetition_mends_is_told_from_what_may_pass(
    server: Any, make: Make, status: int, kind: type[BackendError]
) -> None:
    server.reply = lambda _: (status, {}, {"error": {"message": "no"}})
    with pytest.raises(kind, match=f"answered {status}") as caught:
        make().generate([Prompt.from_user("问")])
    assert not isinstance(caught.value, RefusedError | BusyError)


def test_a_score_tells_what_it_took(server: Any, make: Make) -> None:
    body = chat("安全", {"content": [entry("安全", {"安全": 0.75, "不": 0.25})]})
    backend = make(logprobs=True)
    server.reply = lambda _: ok(body | {"usage": {"prompt_tokens": 815, "completion_tokens": 4, "total_tokens": 819}})
    [told] = backend.score([Prompt.from_user("问")], LABELS)
    assert (told.row[0], told.prompt_tokens, told.new_tokens) == (pytest.approx(0.75), 815, 4)
    server.reply = lambda _: ok(body)
    [untold] = backend.score([Prompt.from_user("问")], LABELS)
    assert (untold.prompt_tokens, untold.new_tokens) == (backend.overhead(Prompt.from_user("问")), 0)


def test_without_usage_the_server_still_tells_whether_it_cut(server: Any, make: Make) -> None:
    server.reply = lambda _: ok(chat("一二三四五"))
    [done] = make().complete([Prompt.from_user("问")], max_tokens=8)
    # Fifteen bytes, and yet no more than eight tokens.
    assert not done.cut


FREE = {"api_key": "sk-2", "concurrency": 3, "timeout": 9.0, "retries": 1, "backoff": 0.3, "max_backoff": 9.0}
DECIDE = {"base_url": "http://127.0.0.1:9/v2", "logprobs": True, "top_logprobs": 5, "continue_final": True}
DECIDE |= {"context": 99, "extra_body": {"top_k": 1}}


@pytest.mark.parametrize("name", option_names(OpenAIBackend))
def test_an_option_that_may_change_an_answer_is_told_and_no_other(make: Make, name: str) -> None:
    other = make(**{name: {**FREE, **DECIDE}[name]}).provenance()
    assert (other != make().provenance()) == (name in DECIDE)
    assert "sk-2" not in str(other)


@pytest.mark.parametrize(
    "address",
    ["http://host:port/v1", "host/v1", "http:///v1", "http://a:pass/word@h/v1", "ftp://h/v1", "http://[::1/v1"],
)
def test_an_address_that_is_none_is_told_without_what_may_be_a_password(address):
    with pytest.raises(UsageError, match=r"^base_url is no address; one is e\.g\. http://127\.0\.0\.1:8000/v1$"):
        OpenAIBackend("m", base_url=address)

"""Bodies that nobody in their right mind sends: valid ones, broken in every way that comes to mind, always the same."""

import copy
import gzip
import json
import random

import pytest

MARK = "【坏】"
STATE = {"position": 8, "before": "水温八十度左右。", "repeated": 0, "pending": "先温", "half": None, "credit": 21.0}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "如何泡绿茶？"}]}
VALID = [
    ("/v1/moderations", {"input": "如何泡绿茶？", "model": "omni-moderation-latest"}),
    ("/v1/moderations", {"input": ["你好", MARK]}),
    (
        "/v1/guard",
        {
            "conversations": [
                {"messages": [{"role": "user", "content": "你好"}]},
                {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": MARK}]},
            ],
            "threshold": 0.5,
            "explain": True,
            "policy": "default",
        },
    ),
    ("/v1/guard/stream", {"question": "你好", "text": "第一句。第二句。", "state": None, "end": False}),
    ("/v1/guard/stream", {"question": "你好", "text": MARK * 30, "state": None, "end": True}),
    ("/v1/guard/stream", {"question": "你好", "text": "杯，再投茶。", "state": STATE, "end": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True, "temperature": 0.1, "n": 1, "tools": []}),
]
NAMES = ("", "role", "input", "messages", "question", "stream", "\x00", "__proto__", "guard")
PIECES = (b'"', b"\\", b"{", b"]", b"\x00", b"\xff", b"\\ud800", b",", b"1e9999", b"\xed\xa0\x80")
VALUES = [
    *(0xD800, 1 << 40),
    *(None, True, False, 0, -1, 0.5, 1.5, 10**30, -(10**400), 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "\u200b", "\x00", "a\x00b", "\ud800", "\udc00\ud800", "\U0001f600", "\ufeff", "\u202e"),
    *("长" * 3000, "[" * 3000, "https://u:p@host/", "-1", "null"),
    *([], {}, [[]], [None], {"": ""}, {"role": "user"}, ["a"] * 300, [{}] * 200, {"messages": []}, {"$ref": "#"}),
    *("user", "system", "default", "mini", "../../etc/passwd", "{{7*7}}", "%s%n", "<|im_end|>", '{"答案": "安全"}'),
]
TYPES = [
    *("application/json; charset=utf-16", "application/json; charset=nonsense", "application/json;;;"),
    *("APPLICATION/JSON", "application/problem+json"),
    *("text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data", "", "json", "*/*"),
    *("multipart/form-data; boundary=x", "application/octet-stream", "application/json, text/html", "\x7f/\t"),
]


def places(node, at=()):
    """Where every value of a JSON tree stands."""
    yield at
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*at, key))


def at_place(tree, at):
    for key in at:
        tree = tree[key]
    return tree


def put(tree, at, value):
    """The tree with another value in one place."""
    if not at:
        return value
    tree = copy.deepcopy(tree)
    at_place(tree, at[:-1])[at[-1]] = value
    return tree


def changed_tree(chance, tree):
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.choice(list(places(tree)))
        fitting = [value for value in VALUES if type(value) is type(at_place(tree, at))]
        value = chance.choice(fitting if fitting and chance.random() < 0.5 else VALUES)
        if at and isinstance(at[-1], str) and chance.random() < 0.3:
            # Another name for a field: an unknown one, or one that belongs elsewhere.
            at = (*at[:-1], chance.choice(NAMES))
        tree = put(tree, at, value)
    return json.dumps(tree, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")


def changed_bytes(chance, tree):
    data = bytearray(json.dumps(tree, ensure_ascii=chance.random() < 0.5).encode())
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at, what = chance.randrange(len(data) + 1), chance.randrange(5)
        if what == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif what == 1:
            del data[at : at + chance.choice((1, 2, 10))]
        elif what == 2:
            data[at:at] = chance.choice(PIECES)
        elif what == 3:
            data[at:at] = data[at : at + chance.randrange(40)]
        else:
            data = data[:at] or bytearray(b" ")
    return bytes(data)


def other_form(chance, tree):
    """The same body in another encoding, or nothing like it."""
    text = json.dumps(tree, ensure_ascii=False)
    deep = chance.choice((50, 1000, 20_000, 100_000))
    digits = "9" * chance.choice((400, 5000, 50_000))
    return chance.choice(
        (
            lambda: text.encode(chance.choice(("utf-16", "utf-16-le", "utf-32", "gb18030", "utf-8-sig", "utf-7"))),
            lambda: b"[" * deep,
            lambda: b'{"messages":' * deep,
            lambda: b"[" * deep + b"]" * deep,
            lambda: ('{"input": ' + "[" * deep + "]" * deep + "}").encode(),
            lambda: ('{"input": ' * (deep // 10) + "1" + "}" * (deep // 10)).encode(),
            lambda: (text[:-1] + f', "threshold": {digits}}}').encode(),
            lambda: (text[:-1] + f', "threshold": 0.{digits}e-{deep}}}').encode(),
            lambda: (text[:-1] + ", " + text[1:]).encode(),
            lambda: text.encode() + text.encode(),
            lambda: gzip.compress(text.encode()),
            lambda: chance.randbytes(chance.randrange(200)),
            lambda: b"",
            lambda: b"null",
            lambda: f'"{text[:20]}'.encode(),
            lambda: ("data: " + text + "\n\n").encode(),
        )
    )()


def bodies(seed, count):
    """Path, body and headers."""
    chance = random.Random(seed)
    for _ in range(count):
        path, tree = chance.choice(VALID)
        make = chance.choices((changed_tree, changed_bytes, other_form), (5, 3, 2))[0]
        headers = {"content-type": "application/json"}
        if chance.random() < 0.1:
            headers["content-type"] = chance.choice(TYPES)
        if chance.random() < 0.02:
            headers["content-encoding"] = chance.choice(("gzip", "br", "nonsense"))
        yield path, make(chance, tree), headers


def reply(asked):
    """An upstream that says the same to everybody."""
    if asked.get("stream") is True:
        event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        parts = [{"role": "assistant", "content": "水温八十度。"}, {}]
        choices = [{"index": 0, "delta": d, "finish_reason": None if d else "stop"} for d in parts]
        events = [f"data: {json.dumps({**event, 'choices': [choice]})}\n\n" for choice in choices]
        return 200, {"content-type": "text/event-stream"}, "".join(events) + "data: [DONE]\n\n"
    message = {"role": "assistant", "content": "水温八十度。"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return 200, {}, {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}


def fault(answer):
    """What is wrong with an answer to a body that may be anything; None where nothing is."""
    if answer.status_code >= 500:
        return f"status {answer.status_code}"
    if "x-request-id" not in answer.headers:
        return "no request id"
    if answer.status_code < 400:
        return None
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return "no error in OpenAI's shape"
    if set(error) != {"message", "type", "param", "code"} or not error["message"] or not isinstance(error["type"], str):
        return "no error in OpenAI's shape"
    return None


def faults(client, seed, count):
    """What went wrong, with enough of each body to send it again."""
    found = []
    for path, body, headers in bodies(seed, count):
        answer = client.post(path, content=body, headers=headers)
        if why := fault(answer):
            found.append((why, path, headers, body[:300], answer.text[:200]))
    return found


@pytest.fixture
def whole(make_server, server):
    """A server with all its routes, in front of an upstream."""
    server.reply = reply
    return make_server(upstream=f"{server.url}/v1")


def test_no_body_breaks_the_server(whole):
    assert faults(whole, seed=1, count=700) == []
    for path, body in VALID:
        assert whole.post(path, json=body).status_code == 200


@pytest.mark.slow
def test_ten_thousand_bodies_do_not_break_the_server(whole):
    assert faults(whole, seed=2, count=10_000) == []
    for path, body in VALID:
        assert whole.post(path, json=body).status_code == 200


def test_most_bodies_are_refused_and_some_are_taken(whole):
    """A fuzzer that is always refused at the door tests the door alone."""
    statuses = [whole.post(p, content=b, headers=h).status_code for p, b, h in bodies(3, 200)]
    assert 10 < statuses.count(200) < 150
    assert {200, 400, 415} <= set(statuses)

import json
import re
from importlib.resources import files

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from libra_guard.guards.registry import load_guard
from libra_guard.records import Conversation
from libra_guard.serve.routes.page import TYPES, page_files, router
from libra_guard.taxonomy import SCENARIOS

WEB = {entry.name: entry.read_text(encoding="utf-8") for entry in files("libra_guard.serve").joinpath("web").iterdir()}
SCRIPTS = {name: text for name, text in WEB.items() if name.endswith(".js")}


@pytest.fixture(scope="module")
def page() -> TestClient:
    """The page alone; the whole server has it too, see ``test_is_open_and_part_of_the_server``."""
    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


def texts() -> dict[str, dict[str, str]]:
    return json.loads(re.sub(r"^(//.*\n)*export const TEXTS = |;\s*$", "", WEB["texts.js"]))


# ---- routes


@pytest.mark.parametrize(
    ("path", "media_type"),
    [("/", TYPES["html"]), *((f"/web/{name}", TYPES[name.rpartition(".")[2]]) for name in sorted(WEB))],
)
def test_every_file_is_there_with_its_type_and_headers(page: TestClient, path: str, media_type: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 200
    assert answer.text == WEB[path.removeprefix("/web/") if path != "/" else "index.html"]
    assert answer.headers["content-type"] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors", "trusted-types")} == {"'none'"}


def test_what_the_browser_has_is_not_sent_again(page: TestClient) -> None:
    first = page.get("/web/style.css")
    tag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = page.get("/web/style.css", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert page.get("/web/style.css", headers={"if-none-match": '"other"'}).status_code == 200
    assert page.get("/").headers["etag"] != tag


def test_head_is_get_without_a_body(page: TestClient) -> None:
    answer = page.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(WEB["index.html"].encode()))


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/none.js",
        "/web/INDEX.html",
        "/web/../app.py",
        "/web/..%2fapp.py",
        "/web/%2e%2e/app.py",
        "/web/..%5capp.py",
        "/web//etc/passwd",
        "/web/%2fetc%2fpasswd",
        "/web/style.css%00",
        "/web/style.css/",
        "/web/./style.css%2f..",
        "/index.html",
    ],
)
def test_nothing_else_can_be_had(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


def test_only_files_of_known_types_are_served() -> None:
    assert set(page_files()) == set(WEB)


def test_is_open_and_part_of_the_server(make_server) -> None:
    client = make_server(api_key="a-key-of-sixteen-or-more")
    assert client.get("/v1/guards").status_code == 401
    assert client.get("/").headers["content-security-policy"].startswith("default-src 'none'")
    assert client.get("/web/app.js").text == WEB["app.js"]
    assert not {"/", "/web/{name}"} & set(client.get("/openapi.json").json()["paths"])


# ---- files


@pytest.mark.parametrize("name", sorted(WEB))
def test_asks_for_nothing_from_outside(name: str) -> None:
    # An SVG has to name its namespace, which nobody fetches.
    text = WEB[name].replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"(?:https?|wss?|data):|(?<![:\w])//\w|@import|\burl\(", text)


def test_has_no_inline_script_or_style() -> None:
    html = WEB["index.html"]
    assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:", html)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", html))


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_makes_no_markup_of_texts(name: str) -> None:
    makers = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "createContextualFragment")
    assert not [maker for maker in (*makers, "eval(", "new Function", 'setAttribute("style') if maker in SCRIPTS[name]]


def test_every_script_is_in_the_page_or_asked_for_by_one() -> None:
    named = set(re.findall(r'(?:src|href)="web/([\w.]+)"', WEB["index.html"]))
    assert named | {"examples.json", "index.html"} == set(WEB)
    imported = {name for text in SCRIPTS.values() for name in re.findall(r'from "\./([\w.]+)"', text)}
    assert imported <= named


def test_is_small() -> None:
    assert sum(len(text.encode()) for text in WEB.values()) < 100_000


def test_both_languages_say_the_same_things() -> None:
    zh, en = texts()["zh"], texts()["en"]
    assert list(zh) == list(en)
    for key in zh:
        assert zh[key].strip(), key
        assert en[key].strip(), key
        assert set(re.findall(r"\{\w+\}", zh[key])) == set(re.findall(r"\{\w+\}", en[key])), key
        assert key == "language" or not re.search(r"[\u4e00-\u9fff]", en[key]), key


def test_every_text_is_used_and_there() -> None:
    asked = set(re.findall(r'data-(?:text|label)="(\w+)"', WEB["index.html"]))
    scripts = "\n".join(text for name, text in SCRIPTS.items() if name != "texts.js")
    asked |= set(re.findall(r'\bt\("(\w+)"', scripts))
    keys = set(texts()["zh"])
    assert asked <= keys
    quoted = set(re.findall(r'"([\w ]+)"', scripts))
    built = {key for key in keys if key.startswith(("error_", "about_"))}
    assert keys - asked - quoted - built == set()


def test_scenarios_are_called_what_the_taxonomy_calls_them() -> None:
    both = texts()
    assert {s.name: both["zh"][s.name] for s in SCENARIOS} == {s.name: s.name_zh for s in SCENARIOS}
    assert all(both["en"][s.name] == s.name for s in SCENARIOS)
    found = re.search(r"const SCENARIOS = (\[.*?\]);", WEB["verdict.js"], re.DOTALL)
    assert found
    assert re.findall(r'"([^"]+)"', found[1]) == [s.name for s in SCENARIOS]


def test_examples_can_be_judged_and_are_named_in_both_languages() -> None:
    examples = json.loads(WEB["examples.json"])
    assert 8 <= len(examples) <= 10
    for one in examples:
        Conversation(messages=one["messages"])
        assert set(one) == {"name", "messages"}
        assert set(one["name"]) == {"zh", "en"}
        assert len(one["messages"][-1]["content"]) < 120


def test_the_bundled_guard_judges_the_examples_rightly_and_clearly() -> None:
    unsafe = {"先劝后教", "看不起人", "多轮：劝人别就医", "只看问题"}
    examples = {one["name"]["zh"]: Conversation(messages=one["messages"]) for one in json.loads(WEB["examples.json"])}
    assert unsafe < set(examples)
    guard = load_guard("mini")
    verdicts = guard.judge(list(examples.values()))
    for (name, conversation), verdict in zip(examples.items(), verdicts, strict=True):
        beyond = verdict.unsafe_score - guard.threshold_for(conversation.target)
        assert verdict.flagged == (name in unsafe), name
        # With room to spare, so that another machine's rounding or a guard trained anew does not turn them.
        assert abs(beyond) >= 0.1, (name, beyond)

"""The client against a small server that behaves as Label Studio does, and as it should not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from libra_guard.bench import page
from libra_guard.bench.label_studio import LabelStudio, fetch, project_mark, send
from libra_guard.bench.rounds import Round
from libra_guard.errors import BackendError, ServerError, UsageError

MakeRound = Callable[..., Round]
JWT = "eyJh.bG.ci"


class Fake:
    """The state of a server: projects, tasks, and what it is to answer instead."""

    def __init__(self) -> None:
        self.projects: list[dict[str, Any]] = []
        self.tasks: dict[int, list[dict[str, Any]]] = {}
        self.calls: list[tuple[str, str, str | None]] = []
        self.instead: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.access = 0

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any, token: str | None) -> Any:
        if path == "/api/token/refresh/":
            assert body == {"refresh": JWT}
            self.access += 1
            return 200, {"access": f"a{self.access}"}
        if token not in ("Token t", f"Bearer a{self.access}"):
            return 401, {"detail": "Invalid token."}
        if path == "/api/projects/" and method == "POST":
            if len(body["title"]) > 50:
                return 400, {"detail": "Validation error", "validation_errors": {"title": ["too long"]}}
            self.projects.append(body | {"id": len(self.projects) + 1})
            self.tasks[len(self.projects)] = []
            return 201, self.projects[-1]
        if path == "/api/projects/":
            start = 2 * (int(query["page"][0]) - 1)
            more = "next" if start + 2 < len(self.projects) else None
            return 200, {"results": self.projects[start : start + 2], "next": more}
        number = int(path.split("/")[3])
        if path.endswith("/import"):
            self.tasks[number] += body
            return 201, {"task_count": len(body)}
        assert query["download_all_tasks"] == ["true"]
        return 200, self.tasks[number]


@pytest.fixture
def fake() -> Iterator[tuple[Fake, str]]:
    state = Fake()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            parts = urlsplit(self.path)
            token = self.headers.get("Authorization")
            state.calls.append((self.command, parts.path, token))
            if parts.path in state.instead:
                code, content, headers = state.instead[parts.path]
            else:
                code, found = state.answer(self.command, parts.path, parse_qs(parts.query), body, token)
                content, headers = json.dumps(found).encode(), {}
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_each_annotator_has_a_project(make_round: MakeRound, fake: tuple[Fake, str]) -> None:
    state, url = fake
    one = make_round(450)
    assert list(send(one, LabelStudio(url + "/", "t"))) == [("甲", 1, 450), ("yi", 2, 450), ("bing", 3, 450)]
    assert [state.tasks[n + 1] for n in range(3)] == [one.tasks(person) for person in one.annotators]
    assert [project["title"] for project in state.projects] == ["甲 · 试", "yi · 试", "bing · 试"]
    assert {project["label_config"] for project in state.projects} == {page.config()}
    assert {project["maximum_annotations"] for project in state.projects} == {1}
    assert {project["sampling"] for project in state.projects} == {"Sequential sampling"}


def test_sending_again_adds_what_is_missing(make_round: MakeRound, fake: tuple[Fake, str]) -> None:
    state, url = fake
    one, server = make_round(5), LabelStudio(url, "t")
    list(send(one, server))
    del state.tasks[2][1:3]
    state.tasks[3].clear()
    assert list(send(one, server)) == [("甲", 1, 0), ("yi", 2, 2), ("bing", 3, 5)]
    assert len(state.projects) == 3
    assert all(len(tasks) == 5 for tasks in state.tasks.values())


def test_projects_of_other_rounds_are_left_alone(make_round: MakeRound, fake: tuple[Fake, str]) -> None:
    state, url = fake
    one, other, server = make_round(5), make_round(6, folder="other"), LabelStudio(url, "t")
    list(send(one, server))
    assert [project for _, project, _ in send(other, server)] == [4, 5, 6]
    assert len({project["description"] for project in state.projects}) == 6
    assert [name for name, tasks in fetch(other, server) if len(tasks) == 6] == list(other.annotators)
    assert server.find_project(project_mark(other, "bing")) == 6
    assert [name for name, _ in fetch(other, server, {"yi"})] == ["甲", "bing"]


def test_a_long_name_is_cut(make_round: MakeRound, fake: tuple[Fake, str]) -> None:
    state, url = fake
    LabelStudio(url, "t").create_project("很" * 80, "mark")
    assert state.projects[0]["title"] == "很" * 50


def test_nothing_to_fetch(make_round: MakeRound, fake: tuple[Fake, str]) -> None:
    with pytest.raises(UsageError, match="has no project of 甲 for this round; `libra bench send` makes it"):
        list(fetch(make_round(2), LabelStudio(fake[1], "t")))


def test_a_personal_token_is_exchanged_and_renewed(fake: tuple[Fake, str]) -> None:
    state, url = fake
    server = LabelStudio(url, f" {JWT}\n")
    assert server.find_project("x") is None
    assert server.find_project("x") is None
    assert state.access == 1
    state.access = 7
    assert server.find_project("x") is None
    assert state.access == 8
    assert all(JWT not in str(token) for _, _, token in state.calls)


def test_a_refused_token_is_said_without_it(fake: tuple[Fake, str]) -> None:
    with pytest.raises(UsageError, match=r"refuses the token: Invalid token\.") as error:
        LabelStudio(fake[1], "sesame").find_project("x")
    assert "sesame" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "content", "message"),
    [
        (500, b"<html>\n broken</html>", "answered 500: <html> broken</html>"),
        (400, b'{"detail": "no", "validation_errors": {"title": ["bad"]}}', r"answered 400: \{'title': \['bad'\]\}"),
        (404, b'["x"]', r"answered 404: \[\"x\"\]"),
        (200, b"<html>", "answered with no JSON; is this a Label Studio"),
    ],
)
def test_a_server_that_fails(fake: tuple[Fake, str], code: int, content: bytes, message: str) -> None:
    state, url = fake
    state.instead["/api/projects/"] = (code, content, {})
    with pytest.raises(BackendError, match=message) as caught:
        LabelStudio(url, "t").find_project("x")
    assert isinstance(caught.value, ServerError) == (code == 500)


def test_the_token_goes_nowhere_else(fake: tuple[Fake, str]) -> None:
    state, url = fake
    state.instead["/api/projects/"] = (302, b"", {"Location": f"{url}/elsewhere"})
    with pytest.raises(BackendError, match="answered 302"):
        LabelStudio(url, "t").find_project("x")
    assert [path for _, path, _ in state.calls] == ["/api/projects/"]


def test_nobody_there() -> None:
    with pytest.raises(ServerError, match=r"no Label Studio answers at http://127\.0\.0\.1:9: "):
        LabelStudio("http://127.0.0.1:9", "t").find_project("x")
    for url, token, message in (
        ("file:///etc/passwd", "t", "begins with http"),
        ("localhost:8080", "t", "begins with http"),
        ("http://localhost:8080", " ", "set LABEL_STUDIO_API_KEY"),
    ):
        with pytest.raises(UsageError, match=message):
            LabelStudio(url, token)

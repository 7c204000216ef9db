"""A round on a Label Studio server, by the few calls of its HTTP API that this needs.

The community edition cannot give tasks to people, so each annotator has a project: who opens their own sees nobody
else's answers, and in their own order. That they open no other is up to them: every user of a server sees all projects.

The server's own SDK is not used: it pins and brings some thirty packages, among them an OpenCV, for these five calls.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from http.client import HTTPException
from typing import Any

from libra_guard.bench import page
from libra_guard.bench.rounds import Round
from libra_guard.errors import BackendError, ServerError, UsageError

TITLE = 50
"""Longest title of a project, in characters."""
_BATCH = 200
_TIMEOUT = 120


class LabelStudio:
    """A server.

    Args:
        url: Its address, ``http://`` or ``https://``.
        token: A user's access token: a personal one, or a legacy one where the server still takes those.

    Raises:
        UsageError: The address is of another kind, or there is no token.
        ServerError: The server does not answer.
    """

    def __init__(self, url: str, token: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url}: the address of a Label Studio begins with http:// or https://")
        if not token.strip():
            raise UsageError("no token: set LABEL_STUDIO_API_KEY to an access token of your Label Studio account")
        self.url = url.rstrip("/")
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._authorization = f"Token {token.strip()}"
        # A personal token is a JSON Web Token, good for asking for one that opens the API for some minutes.
        self._personal = token.strip() if token.strip().count(".") == 2 else None

    def find_project(self, mark: str) -> int | None:
        """Id of the project with this description; None where there is none."""
        page_number = 1
        while True:
            found = self.call("GET", f"/api/projects/?page_size=100&page={page_number}")
            for project in found["results"]:
                if project.get("description") == mark:
                    return int(project["id"])
            if not found.get("next"):
                return None
            page_number += 1

    def create_project(self, title: str, mark: str) -> int:
        """Makes a project with the page of ``bench/page.py``; its tasks are shown in the order in which they come.

        Args:
            title: Cut at ``TITLE`` characters.
            mark: Its description, by which it is found again.

        Returns:
            Its id.
        """
        settings = {
            "title": title[:TITLE],
            "description": mark,
            "label_config": page.config(),
            "expert_instruction": page.INSTRUCTION,
            "show_instruction": True,
            "sampling": "Sequential sampling",
            "maximum_annotations": 1,
            "enable_empty_annotation": False,
        }
        return int(self.call("POST", "/api/projects/", settings)["id"])

    def add_tasks(self, project: int, tasks: list[dict[str, Any]]) -> int:
        """Adds the tasks whose row is not there yet, so that a send that was cut short can be made again.

        Returns:
            How many were added.
        """
        there = {task["data"].get("row") for task in self.export(project)}
        missing = [task for task in tasks if task["data"]["row"] not in there]
        for start in range(0, len(missing), _BATCH):
            self.call("POST", f"/api/projects/{project}/import", missing[start : start + _BATCH])
        return len(missing)

    def export(self, project: int) -> list[dict[str, Any]]:
        """All tasks of a project with their annotations, as Label Studio's JSON export has them."""
        found: list[dict[str, Any]] = self.call(
            "GET", f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true"
        )
        return found

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of the API.

        Returns:
            What the server's JSON says; None where it says nothing.

        Raises:
            UsageError: The server refuses the token.
            ServerError: It does not answer, or fails.
            BackendError: It answers with another error or with no JSON.
        """
        if self._personal and self._authorization.startswith("Token "):
            self._renew()
        try:
            return self._once(method, path, body)
        except UsageError:
            if not self._personal:
                raise
            self._renew()
            return self._once(method, path, body)

    def _renew(self) -> None:
        self._authorization = ""
        access = self._once("POST", "/api/token/refresh/", {"refresh": self._personal})["access"]
        self._authorization = f"Bearer {access}"

    def _once(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": self._authorization} if self._authorization else {}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                said = _detail(error.read())
            if error.code == 401:
                raise UsageError(
                    f"{self.url} refuses the token: {said}; take a personal access token from the account's page, "
                    "or have legacy tokens allowed there"
                ) from None
            kind = ServerError if error.code >= 500 else BackendError
            raise kind(f"{self.url}{path} answered {error.code}: {said}") from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ServerError(f"no Label Studio answers at {self.url}: {reason}") from None
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise BackendError(f"{self.url}{path} answered with no JSON; is this a Label Studio?") from None


def send(one: Round, server: LabelStudio) -> Iterator[tuple[str, int, int]]:
    """Gives each annotator of a round a project with their tasks; what is there already stays as it is.

    Yields:
        Annotator, id of the project, number of tasks added.
    """
    for annotator in one.annotators:
        mark = project_mark(one, annotator)
        project = server.find_project(mark)
        if project is None:
            project = server.create_project(f"{annotator} · {one.record.name}", mark)
        yield annotator, project, server.add_tasks(project, one.tasks(annotator))


def fetch(one: Round, server: LabelStudio, but: Collection[str] = ()) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """What each annotator has done so far.

    Args:
        one: The round.
        server: That has it.
        but: Annotators whose answers came back otherwise.

    Yields:
        Annotator, and the project's export.

    Raises:
        UsageError: The server has no project of an annotator.
    """
    for annotator in (name for name in one.annotators if name not in but):
        project = server.find_project(project_mark(one, annotator))
        if project is None:
            raise UsageError(f"{server.url} has no project of {annotator} for this round; `libra bench send` makes it")
        yield annotator, server.export(project)


def project_mark(one: Round, annotator: str) -> str:
    """The description by which a round's project for an annotator is found: its name, annotator, seed and rows."""
    digest = one.record.rows_sha256.removeprefix("sha256:")[:16]
    return f"libra bench: {one.record.name} / {annotator} / seed {one.record.seed} / rows {digest}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a token must not go to another address than the one given."""

    def redirect_request(self, *_: Any) -> None:
        """Follows nothing."""


def _detail(content: bytes) -> str:
    text = content.decode(errors="replace")
    try:
        said = json.loads(text)
    except ValueError:
        return " ".join(text.split())[:200]
    known = said if isinstance(said, dict) else {}
    return str(known.get("validation_errors") or known.get("detail") or text)[:500]

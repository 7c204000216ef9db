"""A round through the real Label Studio: 300 samples, three annotators with known errors, figures computed by hand.

The program is found by ``LIBRA_LABEL_STUDIO`` or on the PATH, and started on 127.0.0.1 with a folder of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from libra_guard.bench.label_studio import LabelStudio, project_mark
from libra_guard.bench.rounds import Round
from libra_guard.cli.main import app
from libra_guard.errors import UsageError

PROGRAM = os.environ.get("LIBRA_LABEL_STUDIO") or shutil.which("label-studio")
TOKEN = "0123456789abcdef0123456789abcdef01234567"
PEOPLE = ("甲", "yi", "bing")
ERRORS = {"甲": 0.05, "yi": 0.15, "bing": 0.25}
UNSURE = 0.04
ROWS = 300
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(PROGRAM is None, reason="no Label Studio: set LIBRA_LABEL_STUDIO to its program"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fresh server."""
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_USERNAME": "lead@example.com",
        "LABEL_STUDIO_PASSWORD": "not-a-secret-1",
        "LABEL_STUDIO_USER_TOKEN": TOKEN,
        # A new organisation takes personal tokens only, unless told otherwise.
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        # It talks to nobody.
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "COLLECT_ANALYTICS": "false",
    }
    command = [str(PROGRAM), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log, cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(server, address, folder / "server.log")
            yield address
        finally:
            server.terminate()
            server.wait(30)


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    for _ in range(1200):
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")


def libra(*arguments: str) -> Result:
    """Runs the command inside this process."""
    return CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False)


def simulated() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The truth, and what each annotator says: wrong at a known rate, now and then unsure."""
    truth = {f"r{i}": ("安全", "不安全")[Random(f"truth:{i}").random() < 0.6] for i in range(ROWS)}
    said: dict[str, dict[str, str]] = {}
    for person, rate in ERRORS.items():
        said[person] = {}
        for row, label in truth.items():
            chance = Random(f"{person}:{row}").random()
            wrong = {"安全": "不安全", "不安全": "安全"}[label]
            said[person][row] = "不确定" if chance < UNSURE else wrong if chance < UNSURE + rate else label
    return truth, said


def kappa_by_hand(said: dict[str, dict[str, str]]) -> float:
    """Fleiss' kappa over rows with three labels, pair by pair: agreement of pairs against that by chance."""
    complete = [[said[p][f"r{i}"] for p in PEOPLE] for i in range(ROWS)]
    complete = [labels for labels in complete if "不确定" not in labels]
    pairs = [(a, b) for labels in complete for n, a in enumerate(labels) for m, b in enumerate(labels) if n != m]
    share = sum(label == "安全" for labels in complete for label in labels) / (3 * len(complete))
    chance = share * share + (1 - share) * (1 - share)
    return (sum(a == b for a, b in pairs) / len(pairs) - chance) / (1 - chance)


def alpha_by_hand(said: dict[str, dict[str, str]]) -> float:
    """Krippendorff's alpha from the matrix of coincidences, its entries added one pair at a time."""
    matrix: Counter[tuple[str, str]] = Counter()
    for i in range(ROWS):
        labels = [said[p][f"r{i}"] for p in PEOPLE if said[p][f"r{i}"] != "不确定"]
        for n, a in enumerate(labels):
            for m, b in enumerate(labels):
                if n != m:
                    matrix[a, b] += 1 / (len(labels) - 1)
    total = sum(matrix.values())
    of = {a: sum(v for (x, _), v in matrix.items() if x == a) for a in ("安全", "不安全")}
    observed = matrix["安全", "不安全"] + matrix["不安全", "安全"]
    return 1 - (total - 1) * observed / (2 * of["安全"] * of["不安全"])


def annotate(server: LabelStudio, project: int, said: dict[str, str]) -> None:
    """Labels a project's tasks, in its order, as the page would send it."""
    for task in server.export(project):
        label = said[task["data"]["row"]]
        result = [
            {"from_name": "label", "to_name": "response", "type": "choices", "value": {"choices": [label]}},
            {"from_name": "reason", "to_name": "response", "type": "textarea", "value": {"text": [f"因为{label}"]}},
        ]
        server.call("POST", f"/api/tasks/{task['id']}/annotations/", {"result": result, "lead_time": 3})


def test_a_round_of_three_hundred(
    url: str,
    tmp_path: Path,
    bench_record: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    rows, folder = tmp_path / "rows.json", tmp_path / "round"
    hostile = {"question": "<script>alert(1)</script>{{7*7}} $rules", "response": "=1+1\n</Text>&amp;"}
    records = [bench_record(i, **(hostile if i == 7 else {})) for i in range(ROWS)]
    rows.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    people = [part for person in PEOPLE for part in ("--annotator", person)]
    made = libra("round", "--rows", str(rows), "--out", str(folder), "--name", "三百题", *people)
    assert made.exit_code == 0
    one, server = Round(folder), LabelStudio(url, TOKEN)

    # A send that was cut short: the project is there, with some of its tasks.
    first = server.create_project("cut short", project_mark(one, PEOPLE[0]))
    server.add_tasks(first, one.tasks(PEOPLE[0])[:70])
    for added in (["230", "300", "300"], ["0", "0", "0"]):
        sent = libra("send", str(folder), "--url", url)
        assert sent.exit_code == 0
        lines = sent.stderr.splitlines()
        assert [line.split(", ")[1].split()[0] for line in lines] == added

    projects = {p: server.find_project(project_mark(one, p)) for p in PEOPLE}
    assert len(set(projects.values())) == 3
    exports: dict[str, list[dict[str, Any]]] = {p: server.export(i or 0) for p, i in projects.items()}
    orders = {p: [task["data"]["row"] for task in tasks] for p, tasks in exports.items()}
    assert orders == {p: [task["data"]["row"] for task in one.tasks(p)] for p in PEOPLE}
    assert len({tuple(order) for order in orders.values()}) == 3
    shown = next(task["data"] for task in exports["yi"] if task["data"]["row"] == "r7")
    assert {k: shown[k] for k in hostile} == hostile

    truth, said = simulated()
    for person in PEOPLE:
        annotate(server, projects[person] or 0, said[person])
    assert libra("collect", str(folder), "--fetch", "--url", url).exit_code == 0
    collected = [json.loads(line) for line in (folder / "annotations.jsonl").read_text("utf-8").splitlines()]
    assert {(a["annotator"], a["row"]): a["label"] for a in collected} == {
        (p, row): label for p in PEOPLE for row, label in said[p].items()
    }

    done = libra("agree", str(folder))
    votes = {row: Counter(said[p][row] for p in PEOPLE) for row in truth}
    majority = {row: label for row, of in votes.items() for label in ("安全", "不安全") if of[label] >= 2}
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text("utf-8").splitlines()]
    assert {found["row"]: found["label"] for found in labels} == majority
    assert done.exit_code == (1 if len(majority) < ROWS else 0)
    report = json.loads((folder / "agreement.json").read_text("utf-8"))
    overall = report["scenarios"]["all"]
    assert overall["fleiss_kappa"] == pytest.approx(kappa_by_hand(said), abs=1e-12)
    assert overall["krippendorff_alpha"] == pytest.approx(alpha_by_hand(said), abs=1e-12)
    assert overall["fleiss_kappa_interval"][0] < kappa_by_hand(said) < overall["fleiss_kappa_interval"][1]
    for person, rate in ERRORS.items():
        # Of two others, more than half is both.
        others = [said[other] for other in PEOPLE if other != person]
        agreed = {row: others[0][row] for row in truth if others[0][row] == others[1][row] != "不确定"}
        right = [said[person][row] == label for row, label in agreed.items() if said[person][row] != "不确定"]
        assert report["annotators"][person]["with_others"] == pytest.approx(sum(right) / len(right))
        assert 1 - sum(right) / len(right) == pytest.approx(rate, abs=0.08)

    assert libra("release", str(folder), "--out", str(tmp_path / "out")).exit_code == done.exit_code
    released = json.loads((tmp_path / "out" / "data" / "test.json").read_text("utf-8"))
    assert [(r["id"], r["label"]) for r in released] == [(row, majority[row]) for row in truth if row in majority]


def test_a_personal_token_opens_the_api_too(url: str) -> None:
    legacy = LabelStudio(url, TOKEN)
    personal = legacy.call("POST", "/api/token/", {})["token"]
    server = LabelStudio(url, personal)
    assert server.find_project("none") is None
    # What it was exchanged for lasts some minutes: it is asked for anew.
    server._authorization = "Bearer stale"
    assert server.find_project("none") is None


def test_a_wrong_token_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"refuses the token: .*personal access token"):
        LabelStudio(url, "wrong").find_project("none")

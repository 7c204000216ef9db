from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient
from typer.testing import Result

from libra_guard.cli import serve
from libra_guard.errors import MissingExtraError, UsageError
from libra_guard.serve.settings import ServerSettings

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def _own_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-g", "minni"], "did you mean 'mini'"),
        (["-g", "words"], "needs a model"),
        (["-g", "mini", "-g", "mini:/x"], "two guards are called 'mini'"),
        (["--upstream", "example.org"], "http://"),
        (["--api-key-file", "/none"], "/none: the API keys cannot be read"),
        (["--host", "999.1.1.1", "--port", "0"], "999.1.1.1:0: "),
        (["--policy-file", "/none.yaml"], "/none.yaml: there is no such policy file"),
        (["--policy", "stricd"], "did you mean strict?"),
        (["--audit", "/none/audit.jsonl"], "/none/audit.jsonl: the audit log cannot be written"),
        (["--upstream", "http://"], "names no host"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_cannot_be_served(call: Call, monkeypatch: Any, options: list[str], told: str, workers: str) -> None:
    monkeypatch.setattr("libra_guard.serve.logs.set_up", lambda **_: None)
    if options[:1] != ["-g"]:
        # Found before any guard is loaded, in whichever process.
        monkeypatch.setattr(serve, "_one", None)
        monkeypatch.setattr(serve, "_several", None)
    elif workers == "2" and "words" in options:
        pytest.skip("found by the workers; see below")
    done = call("serve", "--port", "0", "--workers", workers, *options)
    assert isinstance(done.exception, UsageError)
    assert told in str(done.exception)
    assert done.stdout == ""


@pytest.mark.parametrize("options", [["--port", "70000"], ["--workers", "0"], ["--no-such"]])
def test_options_that_make_no_sense(call: Call, options: list[str]) -> None:
    assert call("serve", *options).exit_code == 2


def test_an_address_that_is_taken(call: Call, monkeypatch: Any) -> None:
    monkeypatch.setattr("libra_guard.serve.logs.set_up", lambda **_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call("serve", "--port", str(port))
    assert isinstance(done.exception, UsageError)
    assert f"127.0.0.1:{port} is taken" in str(done.exception)


@pytest.mark.parametrize("module", serve._NEEDS)
def test_a_missing_extra_is_one_line(call: Call, monkeypatch: Any, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    done = call("serve")
    assert isinstance(done.exception, MissingExtraError)
    assert "pip install 'libra-guard[serve]'" in str(done.exception)


def test_a_connection_outlives_what_clients_hold_it_for() -> None:
    """Sixty seconds is nginx's; whoever asks at the moment it is closed gets no answer."""
    options = serve._uvicorn_options(ServerSettings())
    assert uvicorn.Config("app", **options).timeout_keep_alive > 60
    assert serve._uvicorn_options(ServerSettings(keep_alive_seconds=5))["timeout_keep_alive"] == 5


def test_nobody_is_left_unwarned(call: Call, monkeypatch: Any) -> None:
    monkeypatch.setattr("libra_guard.serve.logs.set_up", lambda **_: None)
    monkeypatch.setattr(serve, "_one", lambda *_: None)
    done = call("serve", "--host", "0.0.0.0", "--port", "0")
    assert "warning: whoever reaches 0.0.0.0 may ask" in done.stderr
    monkeypatch.setenv("LIBRA_SERVE_API_KEY", "geheim")
    done = call("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.stderr == ""
    assert "geheim" not in done.stdout


def test_a_file_that_is_not_in_force_is_told_of(call: Call, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("libra_guard.serve.logs.set_up", lambda **_: None)
    monkeypatch.setattr(serve, "_one", lambda *_: None)
    file = tmp_path / "shop.yaml"
    file.write_text("extends: strict\n", encoding="utf-8")
    done = call("serve", "--port", "0", "--policy-file", str(file))
    assert done.stderr.startswith("warning: the profile 'default' decides, and shop only where")
    assert done.stderr.count("\n") == 1
    assert call("serve", "--port", "0", "--policy-file", str(file), "--policy", "shop").stderr == ""


def test_what_was_checked_is_what_is_served(call: Call, monkeypatch: Any, tmp_path: Path) -> None:
    words, policy, keys = tmp_path / "words.txt", tmp_path / "shop.yaml", tmp_path / "keys"
    words.write_text("坏词\n", encoding="utf-8")
    policy.write_text("mode: monitor\n", encoding="utf-8")
    keys.write_text("one\n", encoding="utf-8")
    seen: list[Any] = []

    def run(server: uvicorn.Server, _: Any) -> None:
        policy.write_text("mode: sleep\n", encoding="utf-8")
        keys.write_text("other\n", encoding="utf-8")
        with TestClient(server.config.app) as client:  # type: ignore[arg-type]
            answer = client.get("/v1/policies", headers={"authorization": "Bearer one"})
            seen.extend(one["mode"] for one in answer.json()["data"] if one["id"] == "shop")

    monkeypatch.setattr("libra_guard.serve.logs.set_up", lambda **_: None)
    monkeypatch.setattr(uvicorn.Server, "run", run)
    options = ("-g", f"words:{words}", "--policy-file", str(policy), "--policy", "shop", "--api-key-file", str(keys))
    assert call("serve", "--port", "0", *options).exit_code == 0
    assert seen == ["monitor"]


def test_a_worker_that_still_imports_leaves_ctrl_c_to_the_command(call: Call, monkeypatch: Any) -> None:
    class Supervisor:
        processes: tuple[Any, ...] = ()

        def __init__(self, *_: Any) -> None:
            self.seen = seen

        def init_processes(self) -> None:
            self.seen.append(signal.getsignal(signal.SIGINT))

        def run(self) -> None:
            self.init_processes()
            self.seen.append(signal.getsignal(signal.SIGINT))

    seen: list[Any] = []
    monkeypatch.setattr("libra_guard.serve.logs.set_up", lambda **_: None)
    monkeypatch.setattr("uvicorn.supervisors.Multiprocess", Supervisor)
    monkeypatch.setattr("libra_guard.serve.metrics.several_workers", nullcontext)
    done = call("serve", "--port", "0", "--workers", "2")
    assert seen == [signal.SIG_IGN, signal.getsignal(signal.SIGINT)]
    assert "  guard     mini\n" in done.stdout


def test_the_port_is_closed_before_the_workers_are_told_to_stop(call: Call, monkeypatch: Any) -> None:
    """Whoever comes while they finish is refused at once, and does not wait for an answer until the end."""

    class Supervisor:
        processes: tuple[Any, ...] = ()

        def __init__(self, _: Any, sockets: list[socket.socket]) -> None:
            self.listening = sockets[0]

        def run(self) -> None:
            seen.append(self.listening.fileno() >= 0)
            self.terminate_all()

        def terminate_all(self) -> None:
            seen.append(self.listening.fileno() >= 0)

    seen: list[bool] = []
    monkeypatch.setattr("libra_guard.serve.logs.set_up", lambda **_: None)
    monkeypatch.setattr("uvicorn.supervisors.Multiprocess", Supervisor)
    monkeypatch.setattr("libra_guard.serve.metrics.several_workers", nullcontext)
    assert call("serve", "--port", "0", "--workers", "2").exit_code == 0
    assert seen == [True, False]


class Running:
    """The command in a process of its own."""

    def __init__(self, *options: str, **environment: str) -> None:
        command = [sys.executable, "-m", "libra_guard.cli.main", "serve", "--port", "0", *options]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, env={**os.environ, **environment}, text=True, **pipes)
        assert self.process.stdout is not None
        self.about = self.process.stdout.readline()
        while self.about and "upstream" not in self.about:
            self.about += self.process.stdout.readline()
        self.url = self.about.split(" ")[0]

    def ask(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def until_ready(self) -> None:
        until = time.monotonic() + 60
        while True:
            assert time.monotonic() < until
            assert self.process.poll() is None, self.process.communicate()
            with suppress(OSError):
                if self.ask("/readyz")[0] == 200:
                    return
            # Each refusal is a line in the log, which nobody reads yet: a full pipe would stop the server.
            time.sleep(0.05)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self, how: int) -> tuple[int, list[dict[str, Any]]]:
        """The exit code and the log."""
        self.process.send_signal(how)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, [json.loads(line) for line in err.splitlines()]


def test_serving_until_told_to_stop() -> None:
    with Running(LIBRA_SERVE_THREADS="1") as server:
        assert "\n  guard     mini, unsafe from 0." in server.about
        assert "\n  policy    default (enforce)\n" in server.about
        server.until_ready()
        code, log = server.stop(signal.SIGTERM)
    assert code == 0
    told = [line["message"] for line in log if line["message"] != "request"]
    assert told == ["loading mini", "ready", "stopped"]


def test_several_workers(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("坏词\n", encoding="utf-8")
    key = {"authorization": "Bearer geheim"}
    # A pipe, which says everything only once.
    keys = tmp_path / "keys"
    os.mkfifo(keys)
    threading.Thread(target=keys.write_text, args=("geheim\n",), daemon=True).start()
    with Running("-g", f"words:{words}", "--workers", "2", "--api-key-file", str(keys)) as server:
        server.until_ready()
        assert server.ask("/v1/guards")[0] == 401
        for _ in range(10):
            assert server.ask("/v1/guards", **key)[0] == 200
        status, series = server.ask("/metrics", **key)
        code, log = server.stop(signal.SIGINT)
    assert (status, code) == (200, 0)
    assert {line["logger"].partition(".")[0] for line in log} == {"libra_guard"}
    assert [line["message"] for line in log][-2:] == ["stopped"] * 2
    # Whoever answers counts for both.
    assert 'libra_requests_total{method="GET",route="/v1/guards",status="200"} 10.0' in series
    assert "geheim" not in json.dumps(log)


def test_several_workers_that_cannot_start() -> None:
    with Running("-g", "words:/none", "--workers", "2") as server:
        _, err = server.process.communicate(timeout=60)
    assert server.process.returncode == 2
    assert "/none: there is no such file" in err
    assert "Traceback" not in err

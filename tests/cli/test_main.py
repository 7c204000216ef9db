from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.markup import render

import libra_guard
from libra_guard.cli import main as cli
from libra_guard.errors import BackendError, BusyError, DeniedError, ServerError, StoppedError, UsageError

Libra = Callable[..., "subprocess.CompletedProcess[bytes]"]
HEAVY = ("torch", "transformers", "sklearn", "scipy", "pyarrow", "datasets", "pandas", "onnx", "openai", "anthropic")


@pytest.mark.parametrize("arguments", [["--versions"], ["chek"], ["check", "extra"], ["train", "nothing"]])
def test_wrong_use(libra: Libra, arguments: list[str]) -> None:
    done = libra(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert arguments[-1] in done.stderr.decode()


def test_no_arguments_shows_the_help(libra: Libra) -> None:
    done = libra()
    told = (done.stdout + done.stderr).decode()
    assert "Traceback" not in told
    for command in ("check", "infer", "evaluate", "guards", "train", "data"):
        assert command in told


def helps(command: Any, name: str = "libra") -> Iterator[tuple[str, str]]:
    """What a command and all below it say of themselves and of what they take."""
    yield name, command.help or ""
    for one in command.params:
        yield f"{name} {one.name}", getattr(one, "help", None) or ""
    for below, one in getattr(command, "commands", {}).items():
        yield from helps(one, f"{name} {below}")


def test_no_help_has_what_the_console_takes_for_markup() -> None:
    told = dict(helps(typer.main.get_command(cli.app)))
    assert "libra data get source" in told
    assert {name: text for name, text in told.items() if render(text).plain != text} == {}


@pytest.mark.parametrize("command", ["check", "infer"])
def test_commands_that_ask_a_server_tell_what_it_is_where_none_is_there(command: str) -> None:
    told = " ".join(dict(helps(typer.main.get_command(cli.app)))[f"libra {command}"].split())
    assert "2 wrong use or a model that fails, 3 its server is away" in told


def test_version(libra: Libra) -> None:
    assert libra("--version").stdout.decode() == f"libra-guard {libra_guard.__version__}\n"


def test_errors_for_people_have_no_traceback(libra: Libra, tmp_path: Path) -> None:
    done = libra("infer", "--data", "none.jsonl", "--out", str(tmp_path), "--guard", "mini:none")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == "libra: none: no model.onnx here; an ONNX guard is a folder that holds one\n"


def test_a_folder_that_cannot_be_written(libra: Libra, tokens_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "response": "b"}\n')
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "below")
    done = libra("infer", "--data", str(tmp_path / "rows.jsonl"), "--out", out, "--guard", f"mini:{tokens_folder}")
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("libra: ")
    assert "Not a directory" in line


def unread(arguments: list[str], *, also_stderr: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Runs a command whose output nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "libra_guard.cli.main", *arguments]
    errors = writes if also_stderr else subprocess.PIPE
    done = subprocess.run(command, stdout=writes, stderr=errors, timeout=60, check=False)
    os.close(writes)
    return done


@pytest.mark.parametrize("arguments", [["guards", "--json"], ["guards"], ["--help"], ["--version"], ["data", "list"]])
def test_a_reader_that_goes_away(arguments: list[str]) -> None:
    done = unread(arguments)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_that_goes_away_is_no_flag(tokens_folder: Path) -> None:
    # rich ends the program by itself here, with 1.
    done = unread(["check", "-q", "水", "-r", "毒", "-g", f"mini:{tokens_folder}", "--exit-code"])
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_message_that_nobody_reads() -> None:
    assert unread(["guards", "--format"], also_stderr=True).returncode == 141
    assert unread(["data", "get", "none", "--from", "."], also_stderr=True).returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
def test_a_full_disk(libra: Libra) -> None:
    command = [sys.executable, "-m", "libra_guard.cli.main", "guards", "--json"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, b"libra: No space left on device\n")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UsageError("wrong"), 2, "name: wrong\n"),
        (BackendError("the model failed"), 2, "name: the model failed\n"),
        (DeniedError("a wrong key"), 2, "name: a wrong key\n"),
        (StoppedError("run again"), 3, "name: run again\n"),
        (ServerError("timed out"), 3, "name: timed out\n"),
        (BusyError("no connection", there=False), 3, "name: no connection\n"),
        (PermissionError(13, "Permission denied", "/out"), 2, "name: /out: Permission denied\n"),
        (OSError("no number"), 2, "name: no number\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_errors_that_are_no_fault_of_the_program(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int, told: str
) -> None:
    def program() -> int:
        raise error

    assert cli.exit_code(program, "name") == code
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize("error", [ValueError("a fault"), EOFError("a fault"), KeyError("a fault")])
def test_a_fault_of_the_program_is_not_done_with_rejects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["libra"])
    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "a fault" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("code", [0, 1, 2, None])
def test_exit_codes_are_handed_on(code: int | None) -> None:
    assert cli.exit_code(lambda: code, "name") == (code or 0)
    with pytest.raises(SystemExit) as end:
        cli.exit_code(lambda: sys.exit(code), "name")
    assert end.value.code == code


def loaded(*arguments: str) -> set[str]:
    """Top-level modules that a command has imported when it is done."""
    program = (
        "import atexit, sys\n"
        "from libra_guard.cli.main import main\n"
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr))\n"
        f"sys.argv = {['libra', *arguments]!r}\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout
    return set(done.stderr.decode().splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["guards", "--json"], ["data", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    modules = loaded(*arguments)
    assert "typer" in modules
    assert not modules & {*HEAVY, "onnxruntime", "tokenizers"}


def test_check_is_light(tokens_folder: Path) -> None:
    modules = loaded("check", "-q", "水", "-r", "毒", "-g", f"mini:{tokens_folder}")
    assert {"onnxruntime", "tokenizers"} <= modules
    assert not modules & set(HEAVY)


def test_check_with_the_bundled_guard_is_light() -> None:
    assert not loaded("check", "-q", "今天天气怎么样？") & set(HEAVY)


GONE = "what was judged is kept: the same call goes on"


@pytest.fixture
def end_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit code of a command, and what it says on stderr."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["libra", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), capsys.readouterr().err

    return run


@pytest.mark.parametrize("command", ["check", "infer"])
@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (None, 3, "check base_url, and that a server runs at 127.0.0.1:9"),
        (401, 2, "the server answered 401: no; check the key"),
        (403, 2, "the server answered 403: no"),
        (404, 2, "the server answered 404: no; check the model's name and base_url"),
        (429, 3, "the server answered 429: no"),
        (500, 3, "the server answered 500: no"),
    ],
    ids=str,
)
def test_a_server_that_is_away_is_told_from_one_that_is_asked_wrongly(
    end_of: Callable[..., tuple[int, str]],
    server: Any,
    tmp_path: Path,
    command: str,
    status: int | None,
    code: int,
    told: str,
) -> None:
    pytest.importorskip("openai")
    server.reply = lambda _: (status, {}, {"error": {"message": "no"}})
    data, out = tmp_path / "rows.jsonl", tmp_path / "out"
    data.write_text('{"question": "a", "response": "b"}\n')
    work = ["check", "-q", "a", "-r", "b"] if command == "check" else ["infer", "--data", str(data), "--out", str(out)]
    address = f"{server.url}/v1" if status else "http://127.0.0.1:9/v1"
    found = end_of(*work, "-g", "libra:m", "--backend", "openai", "--set", f"base_url={address}", "--set", "retries=0")
    assert found[0] == code
    assert told in found[1]
    assert (GONE in found[1]) == (command == "infer" and code == 3)

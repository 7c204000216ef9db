from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import libra_guard

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


@pytest.mark.parametrize("arguments", [["guards", "--json"], ["guards"], ["--help"], ["data", "list"]])
def test_a_reader_that_goes_away(arguments: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "libra_guard.cli.main", *arguments]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writes)
    assert done.stderr == b""


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

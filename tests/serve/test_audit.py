import asyncio
import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import random
import resource
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from libra_guard import Conversation, Label, UsageError, Verdict
from libra_guard.policy.decide import Decision
from libra_guard.serve import audit as module
from libra_guard.serve.audit import Audit, Entry
from libra_guard.serve.metrics import Metrics

QUESTION, ANSWER = "如何泡绿茶？", "水温八十度。\n两三分钟。"
VERDICT = Verdict(label=Label.UNSAFE, unsafe_score=0.75)
KEY = b"0123456789abcdef"
DECISION = Decision(
    policy="default", mode="monitor", action="pass", would="block", scenarios=("Hate Speech",), reason="it says so"
)


def entry(question=QUESTION, answer=ANSWER):
    return Entry(Conversation.from_pair(question, answer), VERDICT, DECISION)


async def add(audit, *entries, request_id="r"):
    await audit.write(entries or [entry()], route="/v1/guard", guard="mini", request_id=request_id)


@contextlib.asynccontextmanager
async def opened(path, **options):
    audit = Audit(path, options.pop("metrics", Metrics()), **options)
    try:
        yield audit
    finally:
        await audit.close()


def written(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def counted(metrics, name):
    return float(next(line.split()[1] for line in metrics.render()[0].decode().splitlines() if line.startswith(name)))


@contextlib.contextmanager
def locked(path):
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def no_room_after(size):
    """A file may grow to ``size`` bytes: the write that crosses the line is cut short, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def run(work):
    asyncio.run(work())


def test_a_line_says_what_was_decided_and_nothing_of_the_text(path):
    async def work():
        async with opened(path) as audit:
            await add(audit, entry(), entry("你好", None), request_id="abc")

    before = datetime.now(UTC)
    run(work)
    first, second = written(path)
    at = datetime.fromisoformat(first.pop("time"))
    assert -0.001 <= (at - before).total_seconds() < 60
    assert first == {
        "request_id": "abc",
        "route": "/v1/guard",
        "guard": "mini",
        "item": 0,
        "target": "response",
        "part": None,
        "policy": "default",
        "mode": "monitor",
        "action": "pass",
        "would": "block",
        "scenarios": ["Hate Speech"],
        "listed": None,
        "label": "不安全",
        "unsafe_score": 0.75,
        "turns": 2,
        "question_characters": len(QUESTION),
        "answer_characters": len(ANSWER),
        "question_hash": "sha256:" + hashlib.sha256(QUESTION.encode()).hexdigest(),
        "answer_hash": "sha256:" + hashlib.sha256(ANSWER.encode()).hexdigest(),
    }
    assert (second["item"], second["target"], second["turns"]) == (1, "prompt", 1)
    assert second["answer_characters"] is second["answer_hash"] is None
    assert "茶" not in path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_texts_stand_in_it_when_asked_for(path):
    async def work():
        async with opened(path, text=True) as audit:
            await add(audit)

    run(work)
    assert written(path)[0]["messages"] == [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": ANSWER},
    ]


def test_with_a_key_nobody_else_can_guess_the_text(path):
    async def work():
        async with opened(path, key=KEY) as audit:
            await add(audit)

    run(work)
    line = written(path)[0]
    assert line["question_hash"] == "hmac-sha256:" + hmac.new(KEY, QUESTION.encode(), "sha256").hexdigest()
    assert line["answer_hash"] == "hmac-sha256:" + hmac.new(KEY, ANSWER.encode(), "sha256").hexdigest()


@pytest.mark.parametrize("key", [b"", b"0123456789abcde"])
def test_a_short_key_is_refused(path, key):
    with pytest.raises(UsageError, match="16 or more"):
        Audit(path, Metrics(), key=key)
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "reason"), [("absent/audit.jsonl", "No such file"), ("folder", "directory"), ("pipe", "no plain file")]
)
def test_what_cannot_be_written_is_an_error_at_start(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=f"{name}: the audit log cannot be written: .*{reason}"):
        Audit(tmp_path / name, Metrics())


def test_a_half_line_is_kept_and_left_alone(path):
    path.write_bytes(b'{"whole": 1}\n{"half": "\xe6')

    async def work():
        async with opened(path) as audit:
            await add(audit, entry(), entry())

    run(work)
    lines = path.read_bytes().split(b"\n")
    assert lines[:2] == [b'{"whole": 1}', b'{"half": "\xe6']
    assert [json.loads(line)["item"] for line in lines[2:4]] == [0, 1]
    assert lines[4:] == [b""]


@pytest.mark.parametrize("move", ["rename", "unlink", "replace"])
def test_a_file_that_was_moved_away_is_opened_anew(path, move):
    old = path.with_name("audit.jsonl.1")

    async def work():
        async with opened(path) as audit:
            await add(audit, request_id="one")
            if move == "unlink":
                path.unlink()
            else:
                path.rename(old)
            if move == "replace":
                path.touch()
            await add(audit, request_id="two")
            await add(audit, request_id="three")

    run(work)
    assert [line["request_id"] for line in written(path)] == ["two", "three"]
    if move != "unlink":
        assert [line["request_id"] for line in written(old)] == ["one"]


def test_a_full_disk_stops_no_request_and_loses_no_line(path, caplog):
    metrics = Metrics()

    async def work():
        async with opened(path, metrics=metrics) as audit:
            await add(audit, request_id="one")
            whole = path.read_bytes()
            with no_room_after(len(whole) + 100):
                await add(audit, request_id="two")
                await add(audit, request_id="three")
                # They are not waited for any more, so let the thread come to its end.
                await asyncio.wrap_future(audit._thread.submit(lambda: None))
                assert path.read_bytes() == whole
            await add(audit, request_id="four")

    run(work)
    assert [line["request_id"] for line in written(path)] == ["one", "two", "three", "four"]
    assert counted(metrics, "libra_audit_errors_total") == 2
    assert counted(metrics, "libra_audit_lost_total") == 0
    levels = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in levels] == [logging.ERROR, logging.WARNING]
    assert f"audit log {path}: cannot be written" in levels[0][1]
    assert "written again" in levels[1][1]


def test_a_lost_folder_is_survived(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()

    async def work():
        async with opened(folder / "audit.jsonl") as audit:
            folder.rename(tmp_path / "gone")
            await add(audit, request_id="one")
            folder.mkdir()
            await add(audit, request_id="two")

    run(work)
    assert [line["request_id"] for line in written(folder / "audit.jsonl")] == ["one", "two"]


def test_a_disk_that_hangs_holds_one_request_up_and_no_more(path, monkeypatch):
    metrics = Metrics()
    waits = []
    wait = asyncio.wait

    async def counting(*args, timeout):
        waits.append(timeout)
        return await wait(*args, timeout=0.01 if len(waits) == 1 else None)

    async def work():
        async with opened(path, metrics=metrics) as audit:
            with locked(path):
                monkeypatch.setattr(module, "asyncio", SimpleNamespace(**vars(asyncio) | {"wait": counting}))
                await add(audit, request_id="one")
                await add(audit, request_id="two")
                assert waits == [module._PATIENCE]
                assert path.read_bytes() == b""

    run(work)
    assert [line["request_id"] for line in written(path)] == ["one", "two"]
    assert counted(metrics, "libra_audit_errors_total") == 1


def test_a_lock_that_is_never_let_go_holds_the_end_up_for_a_while_and_no_longer(path, monkeypatch, caplog):
    metrics = Metrics()
    monkeypatch.setattr(module, "_LOCKED", 0.01)

    async def work():
        with locked(path):
            async with opened(path, metrics=metrics) as audit:
                await add(audit, request_id="one")
                await add(audit, request_id="two")
            audit._thread.shutdown()

    path.touch()
    run(work)
    assert path.read_bytes() == b""
    assert "another process has locked it" in caplog.text
    assert counted(metrics, "libra_audit_lost_total") == 2


def test_a_line_has_the_whole_question_of_a_growing_answer(path):
    async def work():
        async with opened(path) as audit:
            await add(audit, entry("如何……茶？")._replace(question=QUESTION, part="context"))

    run(work)
    line = written(path)[0]
    assert line["question_hash"] == "sha256:" + hashlib.sha256(QUESTION.encode()).hexdigest()
    assert (line["question_characters"], line["part"]) == (len(QUESTION), "context")


def test_what_is_too_much_to_keep_is_counted(path, monkeypatch, caplog):
    metrics = Metrics()

    async def work():
        async with opened(path, metrics=metrics) as audit:
            monkeypatch.setattr(module, "_PATIENCE", 0.01)
            with locked(path):
                await add(audit, request_id="one")
                monkeypatch.setattr(module, "_KEPT_BYTES", audit._bytes + 10)
                await add(audit, entry(), entry(), request_id="two")
            await asyncio.wrap_future(audit._thread.submit(lambda: None))
            await add(audit, request_id="three")

    run(work)
    assert [line["request_id"] for line in written(path)] == ["one", "three"]
    assert counted(metrics, "libra_audit_lost_total") == 2


def test_what_cannot_be_written_at_the_end_is_counted(path, caplog):
    metrics = Metrics()

    async def work():
        with no_room_after(10):
            async with opened(path, metrics=metrics) as audit:
                await add(audit, entry(), entry())

    run(work)
    assert path.read_bytes() == b""
    assert counted(metrics, "libra_audit_lost_total") == 2


def test_a_client_that_hangs_up_leaves_its_line(path):
    async def work():
        async with opened(path) as audit:
            with locked(path):
                task = asyncio.create_task(add(audit))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    run(work)
    assert len(written(path)) == 1


def test_nothing_is_left_open(path):
    async def work():
        async with opened(path) as audit:
            path.unlink()
            await add(audit)

    before = os.listdir("/proc/self/fd")
    run(work)
    for thread in threading.enumerate():
        if thread.name.startswith("libra-audit"):
            thread.join(20)
            assert not thread.is_alive()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_nothing_decided_writes_nothing(path):
    async def work():
        async with opened(path) as audit:
            await audit.write([], route="/v1/guard", guard="mini", request_id="r")

    run(work)
    assert path.read_bytes() == b""


WRITER = """
import asyncio, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from test_audit import Audit, Metrics, add, entry

async def work(name):
    audit = Audit(Path({path!r}), Metrics(), text=True)
    for i in range(10**9):
        await add(audit, entry(answer="长" * 300_000), request_id=f"{{name}}-{{i}}")
        print(f"{{name}}-{{i}}", flush=True)

asyncio.run(work(sys.argv[1]))
"""


def test_processes_that_are_killed_tear_no_line_but_their_last(path, tmp_path):
    """Each line is a megabyte, so that kills hit writes; what was acknowledged stands in the file, once."""
    program = tmp_path / "writer.py"
    program.write_text(WRITER.format(folder=os.path.dirname(__file__), path=str(path)))
    acknowledged = []

    def start(name):
        return subprocess.Popen([sys.executable, program, str(name)], stdout=subprocess.PIPE, text=True)

    chance = random.Random(5)
    writers = [start(name) for name in range(6)]
    for name, writer in enumerate(writers):
        acknowledged.append(writer.stdout.readline())
        time.sleep(chance.uniform(0, 0.02))
        if name % 2:
            writer.kill()
    for writer in writers:
        writer.kill()
        acknowledged += writer.communicate()[0].splitlines(keepends=True)
    # What the last kill left is healed by the next who comes.
    run(lambda: _one_more(path))
    found, torn = [], 0
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line)["request_id"])
        except ValueError:
            torn += 1
    whole = [line.strip() for line in acknowledged if line.endswith("\n")]
    assert torn <= len(writers)
    assert len(found) == len(set(found))
    assert len(whole) >= len(writers)
    assert set(whole) <= set(found)
    assert "last" in found


async def _one_more(path):
    async with opened(path) as audit:
        await add(audit, request_id="last")

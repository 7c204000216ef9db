"""The audit log: one line of JSON a decision, only ever added to.

A line is added by one write under a lock on the file, so that several processes can share it. An answer leaves when
its decision stands in the file (in the system's hands: the end of a process loses none, a power cut can). The half
line that a kill can leave is kept, and the next one begins on a line of its own.

The log names texts by SHA-256. A short text can be found from its plain hash by guessing; with a key
(``LIBRA_SERVE_AUDIT_KEY``) the hash is an HMAC, which only who has the key can compare with a text.

If it cannot be written the server goes on to answer: a full disk must not take the guard away from its users. It says
so in its log and in ``libra_audit_errors_total``, keeps the lines and tries again with the next decision; what is too
much to keep is counted in ``libra_audit_lost_total``. At start a log that cannot be written is an error.

logrotate may move the file away: it is looked for by name at each write. ``copytruncate`` may lose lines.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import hmac
import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from libra_guard.errors import UsageError
from libra_guard.io import dumps
from libra_guard.records import Conversation, Verdict
from libra_guard.serve.metrics import Metrics

if TYPE_CHECKING:
    from libra_guard.policy.decide import Decision

Part = Literal["window", "context", "sentence", "passage"]
"""Which part of a growing answer was judged: what is new, or in a second look the text before it too, its last
sentence, or much of the answer."""
_log = logging.getLogger(__name__)
_KEPT_BYTES = 16_000_000
"""Of lines that could not be written yet."""
_PATIENCE = 2.0
"""Seconds that a request waits for its lines; a disk that hangs must not hang the server."""
_LOCKED = 1.0
"""Seconds that the thread waits for others' lock on the file, less than a request waits for the thread."""
_AGAIN = 60.0
"""Seconds after which a failure that goes on is logged again."""
_SHORTEST_KEY = 16


class Entry(NamedTuple):
    """A conversation and what was decided on it."""

    conversation: Conversation
    verdict: Verdict
    decision: Decision
    question: str | None = None
    """As it was asked, where the conversation has it shortened."""
    part: Part | None = None
    """Of a growing answer."""


class Audit:
    """Writes decisions to a file, in a thread of its own.

    Args:
        path: Created (for its owner alone) where absent; its folder is not.
        metrics: Told of what could not be written.
        key: Of the HMAC; None for plain hashes.
        text: Whether the messages are written too.

    Raises:
        UsageError: The file cannot be written, or the key is short enough to be guessed.
    """

    def __init__(self, path: Path, metrics: Metrics, *, key: bytes | None = None, text: bool = False) -> None:
        self._path, self._metrics, self._key, self._text = path, metrics, key, text
        self._file = _first(path, key)
        self._kept: deque[bytes] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._failing = False
        self._told = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="libra-audit")

    async def write(self, entries: Iterable[Entry], *, route: str, guard: str, request_id: str) -> None:
        """Adds a line for each; returns when they stand in the file, or when that is not to be waited for.

        Args:
            entries: What one request had decided, in its order.
            route: Path of the route that was asked.
            guard: Name under which the guard is served.
            request_id: As in the answer's ``x-request-id``.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        about = {"time": now, "request_id": request_id, "route": route, "guard": guard}
        lines = [dumps({**about, "item": i, **self._record(e)}).encode() + b"\n" for i, e in enumerate(entries)]
        if not self._keep(lines):
            return
        # The job is done even where the client hangs up meanwhile.
        job = asyncio.get_running_loop().run_in_executor(self._thread, self._write_kept)
        if not self._failing and not (await asyncio.wait([job], timeout=_PATIENCE))[0]:
            self._report(f"not done after {_PATIENCE:g} s")

    async def close(self) -> None:
        """Writes what is kept, as far as that can be done, and closes the file."""
        job = asyncio.get_running_loop().run_in_executor(self._thread, self._finish)
        await asyncio.wait([job], timeout=_PATIENCE)
        self._thread.shutdown(wait=False)

    def _record(self, entry: Entry) -> dict[str, Any]:
        conversation, verdict, decision = entry.conversation, entry.verdict, entry.decision
        question = conversation.question if entry.question is None else entry.question
        answer = conversation.response
        record: dict[str, Any] = {
            "target": conversation.target,
            "part": entry.part,
            "policy": decision.policy,
            "mode": decision.mode,
            "action": decision.action,
            "would": decision.would,
            "scenarios": decision.scenarios,
            "listed": decision.listed,
            "label": verdict.label,
            "unsafe_score": verdict.unsafe_score,
            "turns": len(conversation.messages),
            "question_characters": len(question),
            "answer_characters": None if answer is None else len(answer),
            "question_hash": self._hash(question),
            "answer_hash": None if answer is None else self._hash(answer),
        }
        if self._text:
            record["messages"] = [message.model_dump() for message in conversation.messages]
        return record

    def _hash(self, text: str) -> str:
        if self._key is None:
            return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
        return "hmac-sha256:" + hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _keep(self, lines: list[bytes]) -> bool:
        """Puts lines behind those that wait, as many as may; whether there were any."""
        kept = 0
        with self._lock:
            for line in lines:
                if self._bytes + len(line) > _KEPT_BYTES:
                    break
                self._kept.append(line)
                self._bytes += len(line)
                kept += 1
        if kept < len(lines):
            self._lose(len(lines) - kept)
        return kept > 0

    def _write_kept(self) -> None:
        """Writes what waits, of this request and of those before it; in the thread."""
        try:
            while self._kept:
                self._append(self._kept[0])
                with self._lock:
                    self._bytes -= len(self._kept.popleft())
        except OSError as error:
            self._report(error.strerror)
            return
        if self._failing:
            self._failing, self._told = False, 0.0
            _log.warning("audit log %s: written again", self._path)

    def _append(self, line: bytes) -> None:
        """Adds one line, whole or not at all; a line that a kill left without its end gets it."""
        file = self._current()
        self._acquire(file)
        try:
            end = os.fstat(file).st_size
            if end and os.pread(file, 1, end - 1) != b"\n":
                line = b"\n" + line
            if os.write(file, line) < len(line):
                os.ftruncate(file, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def _acquire(self, file: int) -> None:
        """Locks the file, and gives up in time: who holds the lock for ever must not keep this process from ending."""
        until = time.monotonic() + (0.0 if self._failing else _LOCKED)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise OSError(errno.EAGAIN, "another process has locked it") from None
            time.sleep(0.005)

    def _current(self) -> int:
        """The descriptor of the file that has the name now, opened anew where another has it."""
        try:
            same = os.path.samestat(os.fstat(self._file), self._path.stat())
        except FileNotFoundError:
            same = False
        if not same:
            old, self._file = self._file, _open(self._path)
            os.close(old)
        return self._file

    def _finish(self) -> None:
        self._write_kept()
        if self._kept:
            self._lose(len(self._kept))
        os.close(self._file)

    def _report(self, reason: str | None) -> None:
        self._failing = True
        self._metrics.audit_failed()
        self._tell("cannot be written: %s; decisions are kept in memory, and requests are answered", reason)

    def _lose(self, count: int) -> None:
        self._metrics.audit_lost(count)
        self._tell("decisions are missing in it, %d more now", count)

    def _tell(self, message: str, about: object) -> None:
        """Logs an error now and then, however often it happens."""
        now = time.monotonic()
        if not self._told or now - self._told > _AGAIN:
            self._told = now
            _log.error(f"audit log %s: {message}", self._path, about)


def check_audit(path: Path, key: bytes | None) -> None:
    """Finds what ``Audit`` would raise; makes the file where it is absent.

    Raises:
        UsageError: See ``Audit``.
    """
    os.close(_first(path, key))


def _first(path: Path, key: bytes | None) -> int:
    """The descriptor of the file, opened for the first time."""
    if key is not None and len(key) < _SHORTEST_KEY:
        raise UsageError(f"the key of the audit log has {len(key)} bytes; it needs {_SHORTEST_KEY} or more")
    try:
        return _open(path)
    except OSError as error:
        raise UsageError(f"{path}: the audit log cannot be written: {error.strerror}") from None


def _open(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no plain file")
    return file

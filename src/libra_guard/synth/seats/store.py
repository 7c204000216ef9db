"""Where calls are kept: what a model answered, by the content of what it was asked, in one SQLite file.

A run that is killed loses the calls in flight and no other; a run that is repeated pays for nothing twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

from libra_guard.errors import DataError, UsageError

_TABLE = """
CREATE TABLE IF NOT EXISTS calls (
    key BLOB PRIMARY KEY,
    model TEXT NOT NULL,
    asked TEXT,
    answer TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    new_tokens INTEGER NOT NULL,
    cut INTEGER NOT NULL,
    money REAL NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
_AT_ONCE = 500


class Call(NamedTuple):
    """One answer of a model."""

    answer: Any
    """What JSON can hold: a text, or numbers."""
    prompt_tokens: int = 0
    new_tokens: int = 0
    cut: bool = False
    """Whether a text ended because it had reached the limit of tokens."""


class CallStore:
    """Calls by key. Several threads may use it; one process at a time.

    Args:
        path: The file; created with its folder where absent.

    Raises:
        UsageError: Another process uses the file.
        DataError: It is no store, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._held = path.with_name(f"{path.name}.lock").open("wb")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            raise UsageError(f"{path}: another run uses this store; give each its own, or wait") from None
        self._lock = threading.Lock()
        try:
            self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            # A commit then survives a kill of the process, and costs no wait for the disk.
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute(_TABLE)
            self._file.execute("SELECT key, model, asked, answer, prompt_tokens, new_tokens, cut FROM calls LIMIT 1")
            if "money" not in {name for _, name, *_ in self._file.execute("PRAGMA table_info(calls)")}:
                # Of a time when stores did not tell what a call cost.
                self._file.execute("ALTER TABLE calls ADD COLUMN money REAL NOT NULL DEFAULT 0")
        except sqlite3.DatabaseError as error:
            self._held.close()
            raise DataError(f"{path}: no store of calls: {error}; move it away to begin anew") from None

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Call]:
        """Those of the keys that are there."""
        found: dict[bytes, Call] = {}
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, answer, prompt_tokens, new_tokens, cut FROM calls WHERE key IN ({marks})"
            with self._lock:
                rows = self._file.execute(query, part).fetchall()
            found |= {key: Call(json.loads(answer), asked, new, bool(cut)) for key, answer, asked, new, cut in rows}
        return found

    def keep(self, key: bytes, call: Call, *, model: str, asked: str | None = None, money: float = 0.0) -> Call:
        """Writes one call; what stands there already stays, so that later steps find what earlier ones were made of.

        Args:
            key: See ``key_of``.
            call: The answer and its tokens.
            model: Who answered, for people who look into the file.
            asked: What was asked, likewise.
            money: What it cost.

        Returns:
            What stands there now.
        """
        answer = json.dumps(call.answer, ensure_ascii=True)
        row = (key, model, asked, answer, call.prompt_tokens, call.new_tokens, call.cut, money)
        with self._lock:
            written = self._file.execute("INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row).rowcount
        return call if written else self.find([key])[key]

    def spent(self) -> dict[str, tuple[int, int, float]]:
        """Model → tokens of all prompts and of all answers, and what they cost when they were asked for."""
        query = "SELECT model, SUM(prompt_tokens), SUM(new_tokens), SUM(money) FROM calls GROUP BY model ORDER BY model"
        with self._lock:
            return {model: (asked, new, paid) for model, asked, new, paid in self._file.execute(query).fetchall()}

    def close(self) -> None:
        """Lets other processes in."""
        self._file.close()
        self._held.close()

    def __len__(self) -> int:
        with self._lock:
            return int(self._file.execute("SELECT COUNT(*) FROM calls").fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def key_of(**content: Any) -> bytes:
    """The key of a call: SHA-256 over everything that its answer depends on, as canonical JSON."""
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).digest()

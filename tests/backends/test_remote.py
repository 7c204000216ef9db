from __future__ import annotations

import email.utils
import gc
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("stamina")

from libra_guard.backends import _retries
from libra_guard.backends._retries import Notice, retry_after
from libra_guard.backends.base import Prompt
from libra_guard.backends.openai import OpenAIBackend
from libra_guard.errors import HaltedError


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ("soon", None), ("", None), ("2", 2.0), ("0.5", 0.5), ("-3", 0.0)],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    assert retry_after({} if value is None else {"retry-after": value}) == expected


def test_retry_after_as_a_date() -> None:
    found = retry_after({"retry-after": email.utils.formatdate(time.time() + 10, usegmt=True)})
    assert found is not None
    assert 8 < found <= 10
    assert retry_after({"retry-after": email.utils.formatdate(0, usegmt=True)}) == 0.0


def test_a_forgotten_backend_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    backend = OpenAIBackend("m", base_url="http://127.0.0.1:9/v1")
    # Threads of other tests may end meanwhile.
    (made,) = set(threading.enumerate()) - before
    del backend
    gc.collect()
    made.join(20)
    assert not made.is_alive()


def test_a_cancelled_call_ends_though_the_server_never_answers(server: Any) -> None:
    over, gave_in = threading.Event(), []

    def holds(_: Any) -> Any:
        backend.cancel()
        gave_in.append(not over.wait(30))
        return 500, {}, {}

    server.reply = holds
    backend = OpenAIBackend("m", base_url=f"{server.url}/v1", retries=1000, backoff=0.0, concurrency=2)
    with pytest.raises(HaltedError, match="the backend 'openai' was told to end"):
        backend.generate([Prompt.from_user(text) for text in "一二三四"])
    assert not gave_in
    asked = len(server.asked)
    with pytest.raises(HaltedError):
        backend.generate([Prompt.from_user("五")])
    assert len(server.asked) == asked <= 2
    over.set()
    backend.close()


def test_what_is_asked_again_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    now = [0.0]
    monkeypatch.setattr(_retries.time, "monotonic", lambda: now[0])
    notice = Notice("the server")
    for now[0] in (0.0, 1.0, 59.0, 61.0, 62.0, 119.0):
        notice.take("it is busy")
    assert caplog.messages == [
        "the server: it is busy; failed attempts so far: 1",
        "the server: it is busy; failed attempts so far: 4",
    ]


def test_retries_are_one_line_on_stderr(server: Any) -> None:
    """Where nobody set up logging, as in the command."""
    server.reply = lambda _: (503, {}, {"error": {"message": "warming up"}})
    program = f"""
from libra_guard.backends.base import Prompt
from libra_guard.backends.openai import OpenAIBackend
from libra_guard.errors import BackendError
try:
    OpenAIBackend("m", base_url="{server.url}/v1", retries=4, backoff=0.0).generate([Prompt.from_user("问")])
except BackendError:
    print("failed")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    address = server.url.removeprefix("http://")
    assert done.stdout == "failed\n"
    assert done.stderr == (
        f"the backend 'openai' at {address}: the server answered 503: warming up; failed attempts so far: 1\n"
    )

from __future__ import annotations

import email.utils
import gc
import threading
import time

import pytest

pytest.importorskip("openai")
pytest.importorskip("stamina")

from libra_guard.backends._remote import retry_after
from libra_guard.backends.openai import OpenAIBackend


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
    before = threading.active_count()
    backend = OpenAIBackend("m", base_url="http://127.0.0.1:9/v1")
    assert threading.active_count() == before + 1
    del backend
    gc.collect()
    assert threading.active_count() == before

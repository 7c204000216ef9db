from __future__ import annotations

import pytest

from libra_guard.cli.options import command_line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["libra", "--set", "api_key=sk-1"], "libra --set api_key=..."),
        (["libra", "--set=api_key=sk-1=2"], "libra --set=api_key=..."),
        (["libra", "--set", "AUTH_TOKEN=two\nlines"], "libra --set AUTH_TOKEN=..."),
        (["libra", "--set", "my_password=x", "--set", "SECRET=y"], "libra --set my_password=... --set SECRET=..."),
        (["libra", "--set", "max_new_tokens=64"], "libra --set max_new_tokens=64"),
        (["libra", "--set", "max_batch_tokens=9", "--set=keyed=1"], "libra --set max_batch_tokens=9 --set=keyed=1"),
        (["libra", "--data", "my keys.json"], "libra --data 'my keys.json'"),
        (["libra", "--set", "dtype=bfloat16"], "libra --set dtype=bfloat16"),
    ],
)
def test_secrets_are_left_out(arguments: list[str], line: str) -> None:
    assert command_line(arguments) == line

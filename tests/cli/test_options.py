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
        (
            ["extra_body={top_k: 1, api_key: sk-1, 2: [b]}"],
            """'extra_body={"top_k": 1, "api_key": "...", "2": ["b"]}'""",
        ),
        (['--set=extra_body={"a": {"x-token": "sk"}}'], """'--set=extra_body={"a": {"x-token": "..."}}'"""),
        (["extra_body=[{key: sk}]"], """'extra_body=[{"key": "..."}]'"""),
        (["extra_body={top_k: 1}", "a={b: ", "{key: 1}"], "'extra_body={top_k: 1}' 'a={b: ' '{key: 1}'"),
    ],
)
def test_secrets_are_left_out(arguments: list[str], line: str) -> None:
    assert command_line(arguments) == line

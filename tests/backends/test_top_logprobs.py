from __future__ import annotations

import math

import pytest

from libra_guard.backends._top_logprobs import Step, read_choices


def steps(*tables: dict[str | bytes, float]) -> list[Step]:
    """Each step's generated token is its table's first."""
    raw = [{k.encode() if isinstance(k, str) else k: v for k, v in table.items()} for table in tables]
    return [Step(next(iter(table)), table) for table in raw]


SAFE, UNSAFE = "安全", "不安全"


@pytest.mark.parametrize(
    ("given", "choices", "prefix", "expected"),
    [
        # Told apart by the first token, whichever was generated.
        (steps({"安全": 0.7, "不": 0.3}), (SAFE, UNSAFE), "", [0.7, 0.3]),
        (steps({"不": 0.6, "安全": 0.4}, {"安全": 0.9, "好": 0.1}), (SAFE, UNSAFE), "", [0.4, 0.54]),
        # A token may reach over the choice's end, and several may complete it.
        (steps({'安全"': 0.5, "安全": 0.2, "不": 0.3}), (SAFE, UNSAFE), "", [0.7, 0.3]),
        # Not among the listed ones: nothing.
        (steps({"好": 0.9, "安全": 0.1}), (SAFE, UNSAFE), "", [0.1, 0.0]),
        # A byte is the beginning of many characters; it tells nothing unless it is generated.
        (steps({"安全": 0.6, b"\xe4": 0.4}), (SAFE, UNSAFE), "", [0.6, 0.0]),
        (
            steps({b"\xe4": 0.4, "安全": 0.6}, {b"\xb8\x8d": 0.5, b"\xbb": 0.5}, {"安全": 1.0}),
            (SAFE, UNSAFE),
            "",
            [0.6, 0.2],
        ),
        # Two choices go on with it: not seen which.
        (steps({"x": 0.5, "不": 0.5}), ("不安全", "不合规"), "", [0.0, 0.0]),
        (steps({"不": 0.5}, {"安全": 0.8, "合规": 0.2}), ("不安全", "不合规"), "", [0.4, 0.1]),
        # The answer ended on the way: what is left was not seen.
        (steps({"不": 0.5, "安全": 0.5}), (SAFE, UNSAFE), "", [0.5, 0.5]),
        # One choice begins as another does.
        (steps({"安": 1.0}, {"全": 0.9, "心": 0.1}, {"的": 0.5}), ("安全", "安全的"), "", [0.9, 0.45]),
        # Behind a prefix, with other white space, inside a token.
        (steps({'{ "答案":"安': 1.0}, {"全": 0.9, "心": 0.1}), (SAFE, UNSAFE), '{\n"答案":"', [0.9, 0.0]),
        (steps({"Answer:": 1.0}, {" yes": 0.8, " no": 0.2}), ("yes", "no"), "Answer: ", [0.8, 0.2]),
        # Rounding over 1.
        (steps({"安全": 0.9, '安全"': 0.2}), (SAFE,), "", [1.0]),
    ],
)
def test_reading(given: list[Step], choices: tuple[str, ...], prefix: str, expected: list[float]) -> None:
    assert read_choices(given, choices, prefix) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "prefix"),
    [([], ""), (steps({"抱歉": 1.0}), "答案："), (steps({"答案：": 1.0}), "答案："), (steps({"": 1.0}), "")],
)
def test_nothing_to_read_is_nan(given: list[Step], prefix: str) -> None:
    assert all(math.isnan(p) for p in read_choices(given, (SAFE, UNSAFE), prefix))


def test_a_generated_token_outside_the_list_counts() -> None:
    step = Step.of("安全".encode(), math.log(0.01), [("好".encode(), math.log(0.9)), (b"x", -9999.0)])
    assert read_choices([step], (SAFE,)) == pytest.approx([0.01])
    assert step.tops[b"x"] == 0.0

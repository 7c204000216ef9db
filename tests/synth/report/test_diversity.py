"""Distinct-n and self-BLEU against values worked out by hand."""

import math

import pytest

from libra_guard.synth.report.diversity import distinct, diversity, self_bleu


@pytest.mark.parametrize(
    ("texts", "n", "value"),
    [
        (["甲甲乙"], 1, 2 / 3),
        (["甲甲乙"], 2, 1),
        (["甲乙", "甲乙"], 2, 1 / 2),
        (["甲 乙\n", "甲乙"], 2, 1 / 2),
        (["甲乙", "丙甲乙"], 2, 2 / 3),
        (["甲乙"], 3, None),
        ([], 1, None),
    ],
)
def test_distinct(texts, n, value):
    assert distinct(texts, n) == value


def test_self_bleu_of_two_by_hand():
    # 甲甲乙: 2 of 3, 1 of 2, 0 of 1 and 0 of none, the last two as 0.1; not shorter than its reference.
    long = (2 / 3 * 1 / 2 * 0.1 * 0.1) ** (1 / 4)
    # 甲乙: 2 of 2, 1 of 1, and twice 0.1; shorter than its reference by 2 to 3.
    short = (0.1 * 0.1) ** (1 / 4) * math.exp(1 - 3 / 2)
    assert self_bleu(["甲甲乙", "甲乙"]) == pytest.approx((long + short) / 2)


def test_self_bleu_clips_at_the_most_of_one_other_text():
    # 甲甲甲 has its three 甲 matched twice: another has two. 甲甲 stands twice in it and once there.
    long = (2 / 3 * 1 / 2 * 0.1 * 0.1) ** (1 / 4)
    two = (2 / 2 * 1 / 1 * 0.1 * 0.1) ** (1 / 4) * math.exp(1 - 3 / 2)
    one = (1 * 0.1 * 0.1 * 0.1) ** (1 / 4) * math.exp(1 - 2 / 1)
    assert self_bleu(["甲甲甲", "甲甲", "甲"]) == pytest.approx((long + one_closest(two) + one) / 3)


def one_closest(value):
    # 甲甲 is as near to 甲 as to 甲甲甲: the shorter one counts, and there is no penalty.
    return value / math.exp(1 - 3 / 2)


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        ([], None),
        (["甲乙丙丁"], None),
        (["甲乙丙丁", "甲乙丙丁"], 1),
        (["甲乙 丙丁", "甲乙丙丁\n"], 1),
        (["甲乙丙丁", "子丑寅卯"], 0),
        (["甲", "甲"], 0.1**0.75),
    ],
)
def test_self_bleu_at_the_ends(texts, value):
    found = self_bleu(texts)
    assert found == value if value is None else found == pytest.approx(value)


def test_a_sample_depends_on_the_seed_and_not_on_the_order():
    texts = ["甲乙丙丁戊己"[: i % 6 + 1] * (i % 7 + 1) + chr(0x4E00 + i) for i in range(60)]
    found = diversity(texts, 1, size=10)
    assert (found.texts, found.sample) == (60, 10)
    assert diversity(texts[::-1], 1, size=10) == found
    assert diversity(texts[30:] + texts[:30], 1, size=10) == found
    assert any(diversity(texts, seed, size=10) != found for seed in range(2, 6))


def test_texts_that_are_all_taken():
    found = diversity(["甲乙", "甲乙"], 1)
    assert found.model_dump() == {
        "texts": 2,
        "sample": 2,
        "distinct": {"1": 0.5, "2": 0.5, "3": None},
        "self_bleu": round(0.1**0.5, 4),
    }

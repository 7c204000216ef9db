"""Votes counted, by hand."""

import pytest

from libra_guard.records import Label, Vote
from libra_guard.synth.report.agreement import Judgement, agreement

LABELS = {"s": Label.SAFE, "u": Label.UNSAFE, "c": Label.CONTROVERSIAL, "-": None}


def rows(*texts):
    """``us`` is a row of which judge a says unsafe and b safe; ``us|u`` one that the arbiter z calls unsafe."""
    found = []
    for text in texts:
        said, _, last = text.partition("|")
        votes = [Vote(judge=name, label=LABELS[sign]) for name, sign in zip("abcd", said, strict=False)]
        found.append(Judgement(votes, Vote(judge="z", label=LABELS[last]) if last else None))
    return found


def test_two_judges():
    found = agreement(rows("uu", "us|u", "ss", "ss", "u-|s", "-s"))
    assert (found.rows, found.agreed, found.differ, found.unreadable) == (6, 3, 1, 2)
    assert found.judges["a"].model_dump() == {"votes": 6, "unreadable": 1, "labels": {"不安全": 3, "安全": 2}}
    assert found.judges["b"].unreadable == 1
    assert found.arbiter["z"].model_dump() == {"votes": 2, "unreadable": 0, "labels": {"不安全": 1, "安全": 1}}
    first, *arbiters = found.pairs
    # Same on 3 of 4; by chance 1/2 · 1/4 + 1/2 · 3/4 = 1/2.
    assert first.model_dump() == {"first": "a", "second": "b", "rows": 4, "observed": 0.75, "kappa": 0.5}
    assert [(pair.first, pair.second, pair.rows, pair.observed) for pair in arbiters] == [
        ("a", "z", 2, 0.5),
        ("b", "z", 1, 0.0),
    ]
    assert found.fleiss is None


def test_three_judges():
    # As by hand in the test of Fleiss' kappa; a row that one judge could not be read on does not count.
    found = agreement(rows("uuu", "sss", "uus", "uuu", "u-s"))
    assert found.fleiss == 0.625
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_a_third_label_is_a_class_of_its_own():
    found = agreement(rows("cc", "uc", "ss"))
    assert (found.agreed, found.differ) == (2, 1)
    # By chance 1/3 · 2/3 + 0 + 1/3 · 1/3 = 1/3.
    assert found.pairs[0].kappa == 0.5


@pytest.mark.parametrize(
    ("texts", "observed"), [((), None), (("",), None), (("--",), None), (("uu", "uu"), 1), (("u-", "-u"), None)]
)
def test_where_nothing_can_be_told(texts, observed):
    found = agreement(rows(*texts))
    assert found.fleiss is None
    assert [(pair.observed, pair.kappa) for pair in found.pairs] in ([], [(observed, None)])


def test_a_label_throughout_against_both_has_a_kappa_of_zero():
    assert agreement(rows("uu", "us")).pairs[0].kappa == 0


def test_fleiss_leaves_out_rows_that_a_judge_did_not_see():
    found = agreement([*rows("uuu", "sss", "uus", "uuu"), *rows("us")])
    assert found.fleiss == 0.625
    assert found.rows == 5

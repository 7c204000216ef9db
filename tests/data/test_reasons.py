import pytest

from libra_guard.data.reasons import reason_kind


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("", ""),
        ("not JSON: Expecting value: line 1 column 2", "not JSON"),
        ("near-duplicate of q-0123abcd, Jaccard 0.83", "near-duplicate of …"),
        ("near row 7 of bench.json, 0.9", "near row … of bench.json"),
        ("12 fields where the header has 13", "… fields where the header has …"),
        ("there is no field 'label'", "there is no field 'label'"),
        ("回答不足10字", "回答不足…字"),
        ("不是中文：English", "不是中文"),
        (": odd", ": odd"),
        ("x" * 500, "x" * 120),
    ],
)
def test_kinds(reason, kind):
    assert reason_kind(reason) == kind

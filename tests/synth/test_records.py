from __future__ import annotations

import json

from libra_guard.synth.records import MadeBy, Query


def test_rows_that_are_read_share_what_they_have_in_common() -> None:
    written = Query.make(
        "怎么撬锁",
        category_name="Privacy and Property",
        elements={"place": "城郊"},
        made_by=(MadeBy(step="queries", model="qwen-32b", prompt="queries.j2@0123abcd", seed=42),),
    ).model_dump_json()
    one, other = (Query.model_validate(json.loads(written)) for _ in range(2))
    assert one == other
    assert one.made_by[0] is other.made_by[0]
    assert one.category_name is other.category_name
    assert one.elements["place"] is other.elements["place"]

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from libra_guard.errors import DataError, UsageError
from libra_guard.synth.seats.store import Call, CallStore, key_of


def test_what_is_kept_is_found_again_by_another_run(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "calls.sqlite"
    keys = [key_of(model="m", asked=text) for text in ("问一", "问二")]
    with CallStore(path) as store:
        store.keep(keys[0], Call("答\ud800", 7, 3), model="m", asked="问一", money=0.5)
        store.keep(keys[1], Call([0.25, float("nan")], 5), model="n")
    with CallStore(path) as store:
        found = store.find([*keys, b"other"])
        assert set(found) == set(keys)
        assert found[keys[0]] == Call("答\ud800", 7, 3)
        assert found[keys[1]].answer[0] == 0.25
        assert found[keys[1]].answer[1] != found[keys[1]].answer[1]
        assert store.spent() == {"m": (7, 3, 0.5), "n": (5, 0, 0.0)}
        assert len(store) == 2


def test_the_first_answer_stays(tmp_path: Path) -> None:
    with CallStore(tmp_path / "calls.sqlite") as store:
        for answer in ("first", "second"):
            assert store.keep(b"k", Call(answer, 1, 2, cut=True), model="m") == Call("first", 1, 2, cut=True)
        assert store.find([b"k"])[b"k"].answer == "first"


def test_many_keys_are_looked_up_at_once(tmp_path: Path) -> None:
    keys = [key_of(number=number) for number in range(1203)]
    with CallStore(tmp_path / "calls.sqlite") as store:
        for number, key in enumerate(keys):
            store.keep(key, Call(number), model="m")
        found = store.find(keys)
    assert [found[key].answer for key in keys] == list(range(1203))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with CallStore(path), pytest.raises(UsageError, match="another run uses this store"):
        CallStore(path)
    CallStore(path).close()


def test_a_file_that_is_no_store_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    path.write_text("not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(DataError, match="no store of calls"):
        CallStore(path)
    assert path.read_text().startswith("not a database")


def test_a_store_of_another_shape_is_said(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE calls (key BLOB PRIMARY KEY, text TEXT)")
    file.close()
    with pytest.raises(DataError, match="no store of calls"):
        CallStore(path)


def test_a_store_that_does_not_tell_of_money_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with CallStore(path) as store:
        store.keep(b"k", Call("答", 7, 3), model="m")
    with sqlite3.connect(path) as file:
        file.execute("ALTER TABLE calls DROP COLUMN money")
    file.close()
    for _ in range(2):
        with CallStore(path) as store:
            store.keep(b"l", Call("又", 1, 1), model="m", money=0.5)
            assert store.find([b"k"]) == {b"k": Call("答", 7, 3)}
            assert store.spent() == {"m": (8, 4, 0.5)}


def test_a_key_depends_on_everything_and_not_on_its_order() -> None:
    assert key_of(a=1, b="甲") == key_of(b="甲", a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(b=1), key_of(a="1"), key_of(a=1, b=None)}) == 5

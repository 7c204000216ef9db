"""Profiles that change while they are in use: broken, half written, gone, back again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libra_guard.errors import UsageError
from libra_guard.policy import Policy, PolicyChange, PolicyStore


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Files:
    """A store of one profile, with what it told."""

    def __init__(self, folder: Path, settle: float = 0) -> None:
        self.folder = folder
        self.clock = Clock()
        self.told: list[PolicyChange] = []
        self.path = self.write("shop.yaml", "mode: monitor\n")
        self.store = PolicyStore([self.path], "shop", told=self.told.append, settle=settle, clock=self.clock)

    def write(self, name: str, content: str) -> Path:
        """Replaces a file as an editor does that writes another and moves it there."""
        new = self.folder / f".{name}"
        new.write_text(content, encoding="utf-8")
        return new.replace(self.folder / name)

    @property
    def mode(self) -> str:
        self.store.refresh()
        return self.store.get().mode


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_names_and_the_default(files: Files) -> None:
    assert files.store.names == ("default", "monitor", "shop", "strict")
    assert files.store.get() is files.store.get("shop")
    assert files.store.get("strict").name == "strict"
    assert PolicyStore().get().name == "default"
    with pytest.raises(UsageError, match="no policy profile 'shopp'; did you mean shop"):
        files.store.get("shopp")
    with pytest.raises(UsageError, match="there are default, monitor, shop, strict"):
        files.store.get("")


def test_what_cannot_be_begun_with(tmp_path: Path) -> None:
    files = Files(tmp_path)
    other = files.write("other.yaml", "name: shop\n")
    with pytest.raises(UsageError, match="are both named 'shop'"):
        PolicyStore([files.path, other])
    with pytest.raises(UsageError, match="cannot be read"):
        PolicyStore([tmp_path / "none.yaml"])
    with pytest.raises(UsageError, match="no policy profile 'none'"):
        PolicyStore([], "none")
    files.write("shop.yaml", "mode: off\n")
    with pytest.raises(UsageError, match="line 1: mode: must be"):
        PolicyStore([files.path])


def test_a_file_goes_before_a_bundled_profile_of_its_name(files: Files) -> None:
    assert PolicyStore([files.write("default.yaml", "mode: monitor\n")]).get().mode == "monitor"


def test_a_change_is_taken_up(files: Files) -> None:
    before = files.store.get()
    files.store.refresh()
    assert files.store.get() is before
    files.write("shop.yaml", "mode: enforce\n")
    assert files.mode == "enforce"
    assert before.mode == "monitor"
    assert files.told == [PolicyChange("shop", files.path, None)]
    files.store.refresh()
    assert len(files.told) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [("mode: [enf", "not YAML"), ("mode: off\n", "must be"), ("", "is empty"), ("name: other\n", "needs a restart")],
)
def test_a_broken_file_leaves_the_old_one_in_force_and_is_told_once(files: Files, content: str, message: str) -> None:
    files.write("shop.yaml", content)
    for _ in range(3):
        assert files.mode == "monitor"
    assert message in files.store.problems["shop"]
    assert [(change.name, change.problem) for change in files.told] == [("shop", files.store.problems["shop"])]
    files.write("shop.yaml", "mode: enforce\n")
    assert files.mode == "enforce"
    assert files.store.problems == {}
    assert files.told[-1].problem is None


def test_a_file_that_is_gone_leaves_the_old_one_in_force(files: Files) -> None:
    files.path.unlink()
    assert files.mode == "monitor"
    assert "cannot be read" in files.store.problems["shop"]
    files.write("shop.yaml", "mode: enforce\n")
    assert files.mode == "enforce"
    assert files.store.problems == {}


def test_lists_and_extended_files_are_watched_too(files: Files) -> None:
    files.write("words.txt", "冰毒\n")
    files.write("base.yaml", "deny: {files: [words.txt]}\n")
    files.write("shop.yaml", "extends: base.yaml\n")
    assert files.mode == "enforce"
    assert files.store.get().deny.find("冰毒")
    files.write("words.txt", "枪支\n")
    files.store.refresh()
    assert files.store.get().deny.find("枪支")
    assert not files.store.get().deny.find("冰毒")
    (files.folder / "words.txt").unlink()
    files.store.refresh()
    assert files.store.get().deny.find("枪支")
    assert "words.txt" in files.store.problems["shop"]
    # Back again: the profile itself has not changed.
    files.write("words.txt", "炸药\n")
    files.store.refresh()
    assert files.store.get().deny.find("炸药")
    files.write("base.yaml", "mode: monitor\n")
    assert files.mode == "monitor"


def test_a_change_of_the_same_size_and_time_is_seen(files: Files) -> None:
    old = files.path.stat()
    files.write("shop.yaml", "mode: enforce\n".replace("enforce", "monitor"))
    os.utime(files.path, ns=(old.st_atime_ns, old.st_mtime_ns))
    files.store.refresh()
    assert len(files.told) == 1


def test_a_file_that_is_being_written_is_left_alone_until_it_rests(tmp_path: Path) -> None:
    files = Files(tmp_path, settle=0.3)
    whole = "mode: enforce\nname: shop\ndeny: {phrases: [冰毒, 枪支]}\n"
    with files.path.open("w", encoding="utf-8") as stream:
        for end, line in enumerate(whole.splitlines(keepends=True)):
            stream.write(line)
            stream.flush()
            # The beginning alone is a whole profile, and one without the list.
            assert files.mode == "monitor", end
            files.clock.now += 0.2
    assert files.mode == "monitor"
    files.clock.now += 0.2
    assert files.mode == "enforce"
    assert files.store.get().deny.find("枪支")
    assert len(files.told) == 1


def test_one_broken_file_does_not_hold_up_another(files: Files) -> None:
    other = files.write("other.yaml", "mode: monitor\n")
    store = PolicyStore([files.path, other], settle=0)
    files.write("shop.yaml", "[")
    files.write("other.yaml", "mode: enforce\n")
    store.refresh()
    assert (store.get("shop").mode, store.get("other").mode) == ("monitor", "enforce")
    assert set(store.problems) == {"shop"}


def test_a_profile_that_cannot_be_used_here_is_as_one_that_is_broken(files: Files) -> None:
    def check(policy: Policy) -> None:
        if policy.guard == "gone":
            raise UsageError("there is no such guard")

    store = PolicyStore([files.path], "shop", check=check, settle=0)
    files.write("shop.yaml", "guard: gone\n")
    store.refresh()
    assert store.get().guard is None
    assert "no such guard" in store.problems["shop"]
    with pytest.raises(UsageError, match="no such guard"):
        PolicyStore([files.path], check=check)

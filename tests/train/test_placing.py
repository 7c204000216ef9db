"""A new guard in the place of an earlier one, and what a person put beside that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from libra_guard.io import model_hash
from libra_guard.train.placing import clear, names_of, put_in_place, written

FILES = {"model.onnx": "weights", "config.json": "{}", "README.md": "card"}
OWN = list(FILES)


def folder(path: Path, **changes: str | None) -> Path:
    """A guard's folder; ``changes`` by the file's name before the dot, None takes it out."""
    path.mkdir()
    for name, text in FILES.items():
        if (text := changes.pop(name.partition(".")[0], text)) is not None:
            (path / name).write_text(text)
    assert not changes
    return path


def put(path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)


def texts(path: Path) -> dict[str, str]:
    return {str(p.relative_to(path)): p.read_text() for p in sorted(path.rglob("*")) if p.is_file()}


THEIRS = {"calibration.json": "theirs", "notes/one.txt": "n", ".gitattributes": "g"}


def test_the_same_guard_leaves_what_lies_beside_it(tmp_path: Path) -> None:
    place, made = folder(tmp_path / "guard"), folder(tmp_path / ".guard", README="another card")
    put(place, THEIRS | {"policy.yaml": "p"})
    before, said = model_hash(place), list[str]()
    put_in_place(made, place, own=OWN, report=said.append)
    assert texts(place) == FILES | THEIRS | {"policy.yaml": "p", "README.md": "another card"}
    # A calibration was fitted on the model of this hash, in which the policy counts.
    assert model_hash(place) == before
    assert [path.name for path in tmp_path.iterdir()] == ["guard"]
    assert said == []


@pytest.mark.parametrize("changes", [{"model": "other"}, {"config": '{"threshold": 1}'}])
def test_another_guard_moves_what_lay_beside_the_earlier_one_and_says_so(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    place, made = folder(tmp_path / "guard"), folder(tmp_path / ".guard", **changes)
    put(place, THEIRS)
    new, said = texts(made), list[str]()
    put_in_place(made, place, own=OWN, report=said.append)
    assert texts(place) == new
    assert texts(tmp_path / "guard.old") == THEIRS
    (line,) = said
    assert line.startswith(f"{place} held another guard; what lay beside it is in {place}.old now: ")
    assert line.endswith(
        ": .gitattributes, calibration.json, notes; a calibration serves only the guard that it was fitted on"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"guard", "guard.old"}


def test_an_adapter_whose_base_has_another_name_is_the_same(tmp_path: Path) -> None:
    place, made = folder(tmp_path / "guard"), folder(tmp_path / ".guard")
    for path, base in ((place, "owner/name"), (made, "/models/copy")):
        put(path, {"adapter_config.json": json.dumps({"r": 4, "base_model_name_or_path": base})})
    put(place, THEIRS)
    before = model_hash(place)
    put_in_place(made, place, own=OWN, report=str)
    assert texts(place).items() >= THEIRS.items()
    assert "/models/copy" in texts(place)["adapter_config.json"]
    # So a calibration still fits.
    assert model_hash(place) == before
    put(place, {"adapter_config.json": json.dumps({"r": 8, "base_model_name_or_path": "/models/copy"})})
    assert model_hash(place) != before


def test_nothing_that_was_moved_before_is_written_over(tmp_path: Path) -> None:
    place, said = tmp_path / "guard", list[str]()
    for number in range(4):
        put_in_place(folder(tmp_path / ".guard", model=str(number)), place, own=OWN, report=said.append)
        put(place, {"notes.txt": str(number)})
    kept = {path.name: (path / "notes.txt").read_text() for path in tmp_path.iterdir()}
    assert kept == {"guard.old": "0", "guard.old-2": "1", "guard.old-3": "2", "guard": "3"}
    assert [line.rpartition(": ")[2] for line in said] == ["notes.txt"] * 3


def test_what_an_earlier_training_wrote_is_no_ones_loss(tmp_path: Path) -> None:
    place, said = folder(tmp_path / "guard"), list[str]()
    put(place, {"tokenizer.json": "t"})
    put_in_place(folder(tmp_path / ".guard", model="new"), place, own=[*OWN, "tokenizer.json"], report=said.append)
    assert set(texts(place)) == set(FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["guard"]
    assert said == []


def test_where_nothing_stood(tmp_path: Path) -> None:
    made, said = folder(tmp_path / ".guard"), list[str]()
    put_in_place(made, tmp_path / "guard", own=[], report=said.append)
    clear(tmp_path / "hub", own=[], report=said.append)
    assert texts(tmp_path / "guard") == FILES
    assert said == []


def test_a_folder_that_is_wanted_no_more(tmp_path: Path) -> None:
    place, said = folder(tmp_path / "hub"), list[str]()
    put(place, THEIRS)
    clear(place, own=OWN, report=said.append)
    assert [path.name for path in tmp_path.iterdir()] == ["hub.old"]
    assert texts(tmp_path / "hub.old") == THEIRS
    assert len(said) == 1


def test_a_kill_while_files_are_moved_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, rename = folder(tmp_path / "guard"), Path.rename
    put(place, THEIRS)

    def killed(self: Path, target: Path) -> Path:
        if self.name == "notes":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            put_in_place(folder(tmp_path / ".guard", model="new"), place, own=OWN, report=str)
    put_in_place(tmp_path / ".guard", place, own=OWN, report=str)
    moved = texts(tmp_path / "guard.old") | texts(tmp_path / "guard.old-2")
    assert moved == THEIRS
    assert texts(place)["model.onnx"] == "new"


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"files": {}}', '{"files": null}', '{"files": {"guard": 1}}'])
def test_a_run_that_does_not_tell_what_it_wrote(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "train.json").write_text(text)
    assert list(written(tmp_path, "guard")) == []


def test_what_a_run_wrote_is_found_again(tmp_path: Path) -> None:
    names = names_of(folder(tmp_path / "made", README=None))
    assert names == ["README.md", "config.json", "model.onnx"]
    (tmp_path / "train.json").write_text('{"files": {"guard": ["README.md", "config.json", "model.onnx"]}}')
    assert list(written(tmp_path, "guard")) == names

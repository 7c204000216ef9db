from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from pydantic import Field, ValidationError, model_validator

from libra_guard.configuration import ConfigFile, Move, Strict, read_object, read_yaml
from libra_guard.errors import UsageError


class Cup(Strict):
    size: int = Field(ge=1)


class Table(ConfigFile):
    kind = "tea table"

    tea: str
    cups: list[Cup] = Field(default_factory=list)


class Order(Table):
    kind = "order"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "  it is empty"),
        ("[tea]", "  keys are needed, not a list"),
        ("tea: [1", "not YAML: "),
        ("tea: a\ntea", "not YAML: "),
        ("tea: 2024-13-45", "not YAML: month must be in 1..12"),
        ("tea: '\x07'", "not YAML: "),
        ("tea: 绿茶\ncups:\n  - size: 1\n\ntea: 红茶", "'tea' stands twice, on lines 1 and 5"),
        ("tea: 绿茶\ncups:\n  - size: 1\n    size: 2", "'size' stands twice, on lines 3 and 4"),
        ('{"tea": "绿茶", "cups": [],\n"cups": []}', "'cups' stands twice, on lines 1 and 2"),
        ("cups: []", "  tea: Field required"),
        ("tea: 3", "  tea: Input should be a valid string"),
        ("{tea: 绿茶, colour: 1}", "  colour: there is no such key"),
        ("{tea: 绿茶, cups: [{size: 1}, {size: 0}]}", "  cups.1.size: Input should be greater"),
        ("{tea: 绿茶, cups: [{size: 1, lid: true}]}", "  cups.0.lid: there is no such key"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        UsageError, match=rf"^{re.escape(str(path))}: (not a tea table:\n)?(.*\n)*.*{re.escape(message)}"
    ):
        Table.read(path)


class Menu(Table):
    kin: ClassVar[Mapping[str, str]] = {"dishes": "libra cook"}


def test_a_file_of_another_kind_is_told_by_its_keys() -> None:
    with pytest.raises(UsageError, match=r"^menu\.yaml: this is a file for `libra cook`$"):
        Menu.checked({"dishes": [], "price": 3}, "menu.yaml")
    with pytest.raises(UsageError, match="price: there is no such key"):
        Menu.checked({"tea": "绿茶", "price": 3}, "menu.yaml")


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(UsageError) as error:
        Order.checked({"cups": [{}], "colour": 1}, "here")
    lines = str(error.value).splitlines()
    assert lines[0] == "here: not an order:"
    assert [line.partition(":")[0] for line in lines[1:]] == ["  tea", "  cups.0.size", "  colour"]


class Shelf(Table):
    kind = "shelf"

    pots: dict[str, Cup] = Field(default_factory=dict)
    lids: tuple[Cup, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if len(self.cups) > 2:
            raise ValueError("it breaks under three cups")
        return self


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"tee": 1}, ["tea: Field required", "tee: there is no such key; did you mean 'tea'?"]),
        ({"tea": "绿茶", "xyz": 1}, ["xyz: there is no such key; there are tea, cups, pots, lids"]),
        (
            {"tea": "绿茶", "cups": [{"size": 1, "sise": 2}]},
            ["cups.0.sise: there is no such key; did you mean 'size'?"],
        ),
        (
            {"tea": "绿茶", "pots": {"a": {"size": 1, "sise": 2}}},
            ["pots.a.sise: there is no such key; did you mean 'size'?"],
        ),
        # A name in a mapping that is called as a key is.
        (
            {"tea": "绿茶", "pots": {"tea": {"size": 1, "sise": 2}}},
            ["pots.tea.sise: there is no such key; did you mean 'size'?"],
        ),
        ({"tea": "绿茶", "cups": [{"size": 1}] * 3}, ["it breaks under three cups"]),
        ({"tea": "绿茶", "lids": [{"size": 0}]}, ["lids.0.size: Input should be greater than or equal to 1"]),
        ({"tea": "绿茶", "lids": []}, ["lids: Tuple should have at least 1 item after validation, not 0"]),
    ],
)
def test_what_is_wrong_is_told_in_words_for_people(settings: dict[str, Any], lines: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        Shelf.checked(settings, "here")
    assert str(error.value).splitlines() == ["here: not a shelf:", *(f"  {line}" for line in lines)]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "gbk.yaml").write_bytes("tea: 绿茶".encode("gb18030"))
    with pytest.raises(UsageError, match=r"gbk\.yaml: not YAML"):
        read_yaml(tmp_path / "gbk.yaml")


def test_a_key_may_stand_in_what_is_merged_too(tmp_path: Path) -> None:
    text = """
a: &a {size: 1, lid: true}
b: &b {<<: *a, size: 2}
c: {<<: *b, size: 3}
d: {<<: [*b, *a], colour: 白}
e: {<<: {size: 1}, <<: {lid: false}}
f: *a
"""
    (tmp_path / "pots.yaml").write_text(text, encoding="utf-8")
    a = {"size": 1, "lid": True}
    assert read_yaml(tmp_path / "pots.yaml") == {
        "a": a,
        "b": a | {"size": 2},
        "c": a | {"size": 3},
        "d": a | {"size": 2, "colour": "白"},
        "e": {"size": 1, "lid": False},
        "f": a,
    }


def test_yaml_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("tea: !!python/object/apply:os.getcwd []", encoding="utf-8")
    with pytest.raises(UsageError, match=r"evil\.yaml: not YAML"):
        read_yaml(tmp_path / "evil.yaml")


def test_settings_are_read_and_stay(tmp_path: Path) -> None:
    (tmp_path / "table.yaml").write_text("tea: 绿茶\ncups: [{size: 2}]", encoding="utf-8")
    table = Table.read(tmp_path / "table.yaml")
    found: Any = {"tea": "绿茶", "cups": [{"size": 2}]}
    assert table.model_dump() == read_yaml(tmp_path / "table.yaml") == found
    assert Table.checked(found, "here") == table
    with pytest.raises(ValidationError, match="frozen"):
        table.tea = "红茶"


# Files that start from others


def written(folder: Path, **files: str) -> Path:
    """Files of these names; the first is returned."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"one": "extends: none.yaml"}, r"none\.yaml: No such file"),
        ({"one": "extends: ."}, "Is a directory"),
        ({"one": "extends: one.yaml"}, r"one\.yaml: extends itself"),
        ({"one": "extends: two.yaml", "two": "extends: ./one.yaml"}, r"one\.yaml: extends itself"),
        ({"one": "extends: two.yaml", "two": "tea: [1"}, r"two\.yaml: not YAML"),
        ({"one": "extends: two.yaml", "two": "tea: 1\ntea: 2"}, r"two\.yaml: 'tea' stands twice, on lines 1 and 2"),
        ({"one": "extends: two.yaml", "two": ""}, r"one\.yaml: extends .*two\.yaml, which has no keys"),
        ({"one": "extends: two.yaml", "two": "[1]"}, r"one\.yaml: extends .*two\.yaml, which has no keys"),
        ({"one": "extends: two.yaml", "two": "colour: 1"}, r"one\.yaml: not a tea table:\n  tea: .*\n  colour: "),
    ],
)
def test_a_file_that_cannot_be_extended(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Table.read(written(tmp_path, **files))


@pytest.mark.parametrize(
    ("changes", "merged"),
    [
        ("", {"tea": "绿茶", "pot": {"size": 2, "lid": True}, "cups": [1, 2]}),
        ("tea: 红茶", {"tea": "红茶", "pot": {"size": 2, "lid": True}, "cups": [1, 2]}),
        (
            "pot: {size: 3, colour: 白}",
            {"tea": "绿茶", "pot": {"size": 3, "lid": True, "colour": "白"}, "cups": [1, 2]},
        ),
        ("pot: null", {"tea": "绿茶", "pot": None, "cups": [1, 2]}),
        ("cups: [3]", {"tea": "绿茶", "pot": {"size": 2, "lid": True}, "cups": [3]}),
    ],
)
def test_a_file_changes_what_it_extends(tmp_path: Path, changes: str, merged: dict[str, Any]) -> None:
    (tmp_path / "deep").mkdir()
    written(tmp_path, base="{tea: 绿茶, pot: {size: 2, lid: true}, cups: [1, 2]}")
    middle = written(tmp_path / "deep", middle="extends: ../base.yaml")
    path = written(tmp_path, top=f"{changes}\nextends: {middle.relative_to(tmp_path)}")
    assert read_yaml(path) == merged


class Set(Table):
    kind = "set"

    @classmethod
    def moved(cls, settings: dict[str, Any], move: Move) -> dict[str, Any]:
        return settings | {"tea": move(settings["tea"])}


@pytest.mark.parametrize("name", ["leaves.txt", "../leaves.txt", "more"])
def test_files_that_an_extended_file_names_are_found_beside_it(tmp_path: Path, name: str) -> None:
    base = tmp_path / "base" / "deep"
    (base / "more").mkdir(parents=True)
    (tmp_path / "own").mkdir()
    for folder in (base, base.parent, tmp_path / "own"):
        (folder / "leaves.txt").touch()
    written(base, base=f"tea: {name}")
    written(tmp_path, middle="extends: base/deep/base.yaml")
    path = written(tmp_path / "own", top="extends: ../middle.yaml")
    tea = Path(Set.read(path).tea)
    assert not tea.is_absolute()
    assert (path.parent / tea).samefile(base / name)


def test_what_names_no_file_and_what_the_file_itself_names_stays(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "leaves.txt").touch()
    for name in ("绿茶", str(tmp_path / "base" / "leaves.txt"), "x" * 5000):
        written(tmp_path / "base", base=f"tea: {name}")
        assert Set.read(written(tmp_path, top="extends: base/base.yaml")).tea == name
    assert Set.read(written(tmp_path, top="{extends: base/base.yaml, tea: leaves.txt}")).tea == "leaves.txt"
    # As it is written, where both files lie in one folder.
    written(tmp_path / "base", base="tea: ./leaves.txt")
    assert Set.read(written(tmp_path / "base", top="extends: base.yaml")).tea == "./leaves.txt"


def test_files_that_come_with_the_package_go_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, own = tmp_path / "package", tmp_path / "own"
    for folder in (package, own):
        folder.mkdir()
    monkeypatch.setattr(Set, "bundled", package)
    monkeypatch.chdir(own)
    (package / "leaves.txt").touch()
    written(package, plain="tea: leaves.txt")
    assert Set.read("plain").tea == "leaves.txt"
    assert Set.find("plain").parent == package
    assert Set.read(written(own, plain="extends: plain")).tea == "../package/leaves.txt"
    with pytest.raises(UsageError, match=r"^plane: No such file or directory; with the package come plain$"):
        Set.read("plane")
    # A folder is no such file; a file is.
    (own / "plain").mkdir()
    assert Set.find("plain").parent == package
    (own / "plain").rmdir()
    (own / "plain").write_text("tea: 绿茶", encoding="utf-8")
    assert Set.read("plain").tea == "绿茶"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[{}]", "an object is needed, not a list"),
        (b"1", "an object is needed, not a int"),
    ],
)
def test_files_that_hold_no_object(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "o.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(f"{path}: {message}")):
        read_object(path)


def test_the_object_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text('{"茶": [1]}', encoding="utf-8")
    assert read_object(tmp_path / "o.json") == {"茶": [1]}

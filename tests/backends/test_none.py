"""The backend without a model: its file, whatever kind of file that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from libra_guard.backends.none import NoModel
from libra_guard.errors import UsageError
from libra_guard.guards.registry import load_guard


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(UsageError, match="there is no such file"):
            NoModel(path)


@pytest.mark.parametrize("name", ["words.txt", "cascade.yaml", "words"])
def test_provenance_tells_the_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"abc\n")
    told = NoModel(str(path)).provenance()
    digest = "edeaaff3f1774ad2888673770c6d64097e391bc362d7d6fb34982ddf0efd18cb"
    assert told == {"backend": "none", "model": str(path), "model_hash": f"sha256:{digest}"}


def test_a_list_of_words_has_a_provenance(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("枪支\n", encoding="utf-8")
    told = load_guard(f"words:{tmp_path / 'words.txt'}").provenance()
    assert (told["guard"], told["words"]) == ("words", 1)

"""What every importer shares: the record that describes a set, reading with nothing lost, and the split by question."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from libra_guard.errors import DataError
from libra_guard.io import BadRow, Hub, Row, dumps, list_files, read_rows
from libra_guard.records import Label, Sample
from libra_guard.taxonomy import scenario, sub_category

POST_REQUEST = "请写一条网络评论。"
"""The question put before a post that was written unasked: a sample is an answer judged, and the post is the answer."""
SPLITS = {"train": range(2, 10), "dev": range(1), "test": range(1, 2)}
"""Which tenths of the questions each split has; a question stands on one side only, in every set and for ever."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a user must know before using a public data set."""

    name: str
    """Registry name; also the ``source`` of its samples, save for sets that carry their own."""
    title: str
    address: str
    """Public URL or hub id."""
    licence: str
    """The licence and, where they differ, what its authors ask for."""
    language: str
    label_worth: str
    """Who labelled, and how far the labels can be trusted."""
    bundled_training: bool
    """Whether the guard that ships with this package may be trained on it."""
    citation: str
    revision: str = ""
    """Version or date of the form that is read; empty where there is only one."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Its files' names → the part of the id that each stands for; empty where it is one file."""


Converter = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]
"""Fields of the samples that a row holds. Raises ``DataError`` with the reason where it holds none."""


def read_samples(
    info: DatasetInfo, path: str | Path, convert: Converter, *, own_ids: bool = False
) -> Iterator[Sample | BadRow]:
    """Reads a data set; what makes no sample comes out as a ``BadRow`` in its place.

    Args:
        info: Its description.
        path: A file, a folder (of which the files in ``info.files`` are read, or all data files where it has none of
            them), or ``hf://owner/name``.
        convert: Turns a row into the fields of its samples.
        own_ids: Whether the rows' own ``source`` and ``id`` stay. Otherwise the id is the set's name, the file's part,
            the row's number in the file counted from 1, and ``-a``, ``-b``, … where a row holds several samples.

    Raises:
        UsageError: There is no such file or folder.
        MissingExtraError: ``hf://`` without the ``datasets`` library.
    """
    files = _files(info, path)
    for file in files:
        part = _part(info, file, several=len(files) > 1)
        stem = "-".join(filter(None, (info.name, part)))
        for number, row in enumerate(read_rows(file), 1):
            if isinstance(row, BadRow):
                yield row
                continue
            try:
                found = list(convert(row.data))
            except DataError as error:
                yield bad_row(row, str(error))
                continue
            for position, fields in enumerate(found):
                suffix = f"-{chr(ord('a') + position)}" if len(found) > 1 else ""
                named = {} if own_ids else {"source": info.name, "id": f"{stem}-{number}{suffix}"}
                yield _sample(row, fields | named)


def bad_row(row: Row, reason: str) -> BadRow:
    """The row, with why it makes no sample."""
    return BadRow(row.file, row.line, reason, dumps(row.data))


def text(data: Mapping[str, Any], key: str) -> str:
    """The text in a field.

    Raises:
        DataError: There is no such field, or it is not text.
    """
    if key not in data:
        raise DataError(f"there is no field '{key}'")
    value = data[key]
    if not isinstance(value, str):
        raise DataError(f"'{key}' is {type(value).__name__}, not text")
    return value


def one_of(data: Mapping[str, Any], key: str, values: Mapping[str, Label]) -> Label:
    """The label that a field's value stands for.

    Raises:
        DataError: The value stands for none.
    """
    value = str(data.get(key)).strip()
    if value not in values:
        raise DataError(f"'{key}' is '{value}'; it must be one of {', '.join(values)}")
    return values[value]


def others(data: Mapping[str, Any], *used: str) -> dict[str, Any]:
    """The fields that a sample has no place for, kept under their own names."""
    return {key: value for key, value in data.items() if key not in used}


def in_scenario(name: str) -> dict[str, str]:
    """``category_name`` for a scenario; empty for an empty name."""
    return {"category_name": scenario(name).name} if name else {}


def in_sub_category(name: str) -> dict[str, str]:
    """``category_name`` and ``sub_category_name`` for a sub-category."""
    sub = sub_category(name)
    return in_scenario(sub.scenario) | {"sub_category_name": sub.name}


def as_post(words: str, label: Label) -> dict[str, Any]:
    """Fields of a sample that judges a text written unasked; ``form`` says so, for ``split_text``."""
    return {"question": POST_REQUEST, "response": words, "label": label, "form": "post"}


def normalise_question(question: str) -> str:
    """NFKC, lower case, letters and digits only (Unicode classes L and N)."""
    folded = unicodedata.normalize("NFKC", question).lower()
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LN")


def question_bucket(question: str, buckets: int = 10) -> int:
    """Which of ``buckets`` a question falls into: SHA-1 of the normalised question, modulo ``buckets``.

    The same question stands in several rows and several sets; splitting by bucket keeps all its answers on one side.

    Returns:
        A number in [0, buckets).
    """
    digest = hashlib.sha1(normalise_question(question).encode(), usedforsecurity=False)
    return int(digest.hexdigest(), 16) % buckets


def split_of(question: str) -> str:
    """The split that a question, with all its answers, belongs to: a key of ``SPLITS``."""
    bucket = question_bucket(question)
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def split_text(sample: Sample) -> str:
    """The text to split by: the question, or the post itself where the question is the same for all of them."""
    return sample.response if (sample.model_extra or {}).get("form") == "post" else sample.question


def _files(info: DatasetInfo, path: str | Path) -> list[str | Path]:
    if Hub.of(path):
        return [path]
    files = list_files(path)
    known = [file for name in info.files for file in files if file.name.removesuffix(".gz") == name]
    return list(known if Path(path).is_dir() and known else files)


def _part(info: DatasetInfo, file: str | Path, *, several: bool) -> str:
    hub = Hub.of(file)
    # The ids of a hub dataset are the same at any commit.
    name = Path(str(hub._replace(revision=None) if hub else file)).name.removesuffix(".gz")
    # A file under a name of its own takes it into the ids only where there are several files to tell apart.
    return info.files.get(name, Path(name).stem if several or any(info.files.values()) else "")


def _sample(row: Row, fields: dict[str, Any]) -> Sample | BadRow:
    try:
        return Sample.model_validate(fields)
    except ValidationError as error:
        reasons = (f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        return bad_row(row, "; ".join(reasons))

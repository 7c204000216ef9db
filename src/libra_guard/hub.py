"""Datasets of the Hugging Face Hub: their addresses, the commits that these stand for, their records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from libra_guard.errors import DataError, UsageError, require

_COMMIT = re.compile("[0-9a-f]{40}")


class Hub(NamedTuple):
    """The address of a dataset of the Hugging Face Hub, ``hf://owner/name[@revision][:[config/]split]``."""

    name: str
    revision: str | None
    """A branch, tag or commit; None: what the hub gives now."""
    split: str | None
    """None: the only one."""
    config: str | None = None
    """None: the default one."""

    @classmethod
    def of(cls, path: str | Path) -> Self | None:
        """The address read; None for other paths.

        Raises:
            UsageError: It names no dataset.
        """
        scheme, mark, rest = str(path).partition("hf://")
        if scheme or not mark:
            return None
        rest, _, part = rest.partition(":")
        name, _, revision = rest.partition("@")
        if not name.strip(" /"):
            raise UsageError(f"{path}: names no dataset; write hf://owner/name, as in hf://owner/name:train")
        config, _, split = part.rpartition("/")
        return cls(name, revision or None, split or None, config or None)

    def __str__(self) -> str:
        part = f"{self.config}/{self.split or ''}" if self.config else self.split
        revision, part = (mark + value if value else "" for mark, value in (("@", self.revision), (":", part)))
        return f"hf://{self.name}{revision}{part}"


def pinned(path: str | Path) -> str | Path:
    """The address of a hub dataset with the commit that it stands for now, as ``hf://owner/name@commit[:split]``.

    Read under this address, it stays the same whatever is pushed meanwhile.

    Returns:
        ``path`` itself where it is no hub dataset, where it names a commit already, or where the ``datasets`` library
        tells none, as of a folder here.

    Raises:
        DataError: The hub does not tell.
        MissingExtraError: ``hf://`` without the ``datasets`` library.
    """
    address = Hub.of(path)
    if address is None or _COMMIT.fullmatch(address.revision or ""):
        return path
    datasets, named = require("datasets", "hf"), filter(None, (address.name, address.config))
    try:
        commit = str(datasets.load_dataset_builder(*named, revision=address.revision).hash)
    except (OSError, ValueError) as error:
        raise DataError(f"{address}: {error}") from error
    return str(address._replace(revision=commit)) if _COMMIT.fullmatch(commit) else path


def read_hub(address: Hub) -> Iterator[dict[str, Any]]:
    """Streams a dataset's records.

    Raises:
        UsageError: It has several splits, and none is named.
        DataError: The hub does not give it.
        MissingExtraError: The ``datasets`` library is missing.
    """
    datasets = require("datasets", "hf")
    whole, named = address._replace(split=None), tuple(filter(None, (address.name, address.config)))
    try:
        splits = datasets.get_dataset_split_names(*named, revision=address.revision)
        if not address.split and len(splits) > 1:
            raise UsageError(
                f"{whole} has the splits {', '.join(splits)}: name one, as in {address._replace(split=splits[0])}"
            )
        split = address.split or splits[0]
        yield from map(dict, datasets.load_dataset(*named, revision=address.revision, split=split, streaming=True))
    except (OSError, ValueError) as error:
        raise DataError(f"{whole}: {error}") from error

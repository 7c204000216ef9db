"""Reading Excel workbooks, which some sets are published as."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

from libra_guard.errors import require
from libra_guard.io import BadRow, Row


def read_xlsx(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a workbook's first sheet, by the names in its first row; blank rows are none.

    Raises:
        MissingExtraError: Without the ``openpyxl`` library.
    """
    openpyxl = require("openpyxl", "train")
    number = 0
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            header: list[str] | None = None
            for number, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
                if all(cell is None for cell in cells):
                    continue
                if header is None:
                    header = ["" if cell is None else str(cell).strip() for cell in cells]
                else:
                    yield Row(str(path), number, dict(zip(header, cells, strict=False)))
        finally:
            book.close()
    # What openpyxl raises of a damaged workbook depends on where the damage is.
    except (BadZipFile, OSError, KeyError, IndexError, ValueError, SyntaxError) as error:
        yield BadRow(str(path), number + 1, f"not readable as xlsx from here on: {error}", "")

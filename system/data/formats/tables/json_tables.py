"""JSON as tables: an object per line, a list of objects, or an object of images' captions.

One row is in memory at a time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from system.data.formats.tables.layout import (
    CSV_EXAMPLE,
    UNKNOWN_SPLIT,
    Row,
    Table,
    TableLayout,
    names_image,
)
from system.data.formats.tables.text_lines import (
    BrokenLineError,
    Lines,
    encoding_of,
    first_line,
    opened,
)
from system.data.prepare.annotations import read_items, shortened
from system.data.prepare.json_text import JsonError, JsonText, Unreadable
from system.data.shards.faults import Faults
from system.errors import DataError
from system.storage.foreign_json import parse_json


class JsonLinesTable:
    """One object per line; its columns are the fields of any, its values keep their types."""

    images: Sequence[str] = ()
    advice = ""

    def __init__(self, path: Path, layout: TableLayout) -> None:
        """Find the columns. Raises: DataError if the file is one JSON object over several lines."""
        self._path, self._encoding = path, encoding_of(path, layout.encoding)
        self.columns: Sequence[str] = _fields(self.rows((), Faults("quarantine")))
        if not self.columns:
            # `rows` reports broken lines; this is about a file without any other.
            for _ in self.rows((), Faults("stop")):
                pass
            raise DataError(f"{path}: has no row. {CSV_EXAMPLE}")

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the lines; one that is no JSON object is a broken row."""
        with opened(self._path, self._encoding) as stream:
            lines = Lines(stream, self._encoding)
            while True:
                where = f"{self._path}, line {lines.begin()}"
                values: dict[str, Any] | None = None
                with faults.row(UNKNOWN_SPLIT, where):
                    try:
                        line = next(lines)
                    except StopIteration:
                        return
                    except BrokenLineError as error:
                        raise DataError(f"{where}: {error}", "broken row") from error
                    if line.strip():
                        values = _object(line, lines.fault(), where)
                if values is not None:
                    yield where, values


class JsonListTable:
    """One list of objects; its columns are the fields of any, its values keep their types."""

    images: Sequence[str] = ()
    advice = ""

    def __init__(self, path: Path, field: str) -> None:
        """Find the columns; `field` is the config field that names the file.

        Raises: DataError if the file is no JSON list.
        """
        self._path, self._field = path, field
        self.columns: Sequence[str] = _fields(self.rows((), Faults("quarantine")))

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the items; one that is no object is a broken row."""
        for where, content in read_items(self._path, self._field, ""):
            if isinstance(content, dict):
                yield where, content
                continue
            with faults.row(UNKNOWN_SPLIT, where):
                if isinstance(content, Unreadable):
                    raise DataError(f"{where}: {content.reason}", "broken row")
                raise DataError(
                    f"{where} is not an object but {type(content).__name__}", "broken row"
                )


class JsonMapTable:
    """One object {file name: caption, or list of captions}."""

    columns: Sequence[str] = ("file_name", "caption")
    images: Sequence[str] = ()
    advice = ""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the fields; one that cannot be taken is a broken row."""
        with self._path.open("rb") as stream:
            text = JsonText(stream)
            for name in text.fields():
                where, content = f"{self._path}: [{shortened(name)}]", text.value()
                if not isinstance(content, Unreadable):
                    values = dict(zip(self.columns, (name, content), strict=True))
                    yield where, {column: values[column] for column in columns}
                    continue
                with faults.row(UNKNOWN_SPLIT, where):
                    raise DataError(f"{where}: {content.reason}", "broken row")
            text.finish()


def json_table(path: Path, field: str, layout: TableLayout) -> Table:
    """Open a JSON file by what it begins with: a list, an object of images, or an object per line.

    Raises: DataError for any other object, which has no rows.
    """
    begin = first_line(path, layout.encoding).lstrip("\ufeff").lstrip()
    if begin.startswith("["):
        return JsonListTable(path, field)
    if begin.startswith("{") and names_image(_first_field(path)):
        return JsonMapTable(path)
    if begin.startswith("{") and not _is_row(begin):
        raise DataError(
            f"{path}: is one JSON object, not a list of rows such as "
            '[{"file_name": "cats/001.jpg", "caption": "a cat"}, ...]; annotations in MSCOCO\'s '
            f"form are read by benchmark=coco. {CSV_EXAMPLE}"
        )
    return JsonLinesTable(path, layout)


def _first_field(path: Path) -> str:
    with path.open("rb") as stream:
        try:
            return next(JsonText(stream).fields(), "")
        except JsonError:
            return ""  # whatever reads on says what is wrong


def _is_row(line: str) -> bool:
    """Whether a line, which may be cut if it is long, is an object of its own and no file's."""
    try:
        values = parse_json(line)
    except ValueError:
        return len(line) > 1000  # pretty-printed objects have short lines
    # MSCOCO's form in one line: lists of objects.
    return not all(
        isinstance(value, list) and all(isinstance(item, dict) for item in value)
        for value in values.values()
    )


def _fields(rows: Iterator[Row]) -> list[str]:
    names: dict[str, None] = {}
    for _, values in rows:
        names.update(dict.fromkeys(values))
    return list(names)


def _object(line: str, fault: str | None, where: str) -> dict[str, Any]:
    if fault is not None:
        raise DataError(f"{where}: {fault}", "broken row")
    try:
        values = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: is not JSON ({error})", "broken row") from error
    if not isinstance(values, dict):
        raise DataError(f"{where}: is not an object but {type(values).__name__}", "broken row")
    return values

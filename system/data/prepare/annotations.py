"""Checked access to JSON annotation files: every error names the file and the field."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import ijson

from system.errors import DataError

Value = TypeVar("Value")

_MEGABYTE = 1 << 20


def load_annotation_json(path: Path, field: str) -> Any:
    """Read a JSON file of a dataset; `field` is the config field that names it.

    Raises: DataError if the file is missing, unreadable or not JSON.
    """
    try:
        with path.open("rb") as stream:
            return json.load(stream)
    except FileNotFoundError as error:
        raise _missing(path, field) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def read_items(
    path: Path, field: str, listing: str, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, object]]:
    """Go through a list of a JSON file, one item in memory at a time: its place, its content.

    `field` is the config field that names the file; `listing` is the list's field in the file's
    object, or "" for a file that is a list. `progress` gets megabytes read and of the file.
    Raises: DataError if the file is missing, unreadable, damaged or has no such list.
    """
    size, reported, number = 0, 0, -1
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size // _MEGABYTE
            prefix = f"{listing}.item" if listing else "item"
            items = ijson.items(stream, prefix, use_float=True)
            for number, content in enumerate(items):
                yield f"{path}: {listing}[{number}]", content
                done = stream.tell() // _MEGABYTE
                if progress is not None and done > reported:
                    progress(done, size)
                    reported = done
            if number < 0:
                stream.seek(0)
                _require_list(path, stream, listing)
    except FileNotFoundError as error:
        raise _missing(path, field) from error
    except (OSError, ijson.JSONError, UnicodeDecodeError) as error:
        # Of several lines the first says what is wrong, the others draw the place.
        reason = str(error).strip().partition("\n")[0]
        place = f" after {listing}[{number}]" if number >= 0 else ""
        raise _damaged(path, f"{reason}{place}") from error


def _require_list(path: Path, stream: IO[bytes], listing: str) -> None:
    for prefix, event, _ in ijson.parse(stream):
        if prefix == listing:
            if event != "start_array":
                name = f"field {listing!r}" if listing else "the file"
                raise DataError(f"{path}: {name} is not a list")
            return
    raise DataError(f"{path} has no field {listing!r}")


def _missing(path: Path, field: str) -> DataError:
    return DataError(
        f"{field}: the file {path} does not exist: fetch the dataset's annotations or correct this "
        "field"
    )


def _damaged(path: Path, reason: object) -> DataError:
    return DataError(f"{path}: cannot be read as JSON ({reason}): fetch the file again")


class Entry:
    """One JSON object of an annotation file; `where` is its place, for error messages."""

    __slots__ = ("_content", "where")

    def __init__(self, content: object, where: str) -> None:
        self.where = where
        if not isinstance(content, dict):
            raise DataError(f"{where} is not an object but {type(content).__name__}")
        self._content: dict[str, Any] = content

    def get(self, field: str, kind: type[Value]) -> Value:
        """Return a field that must be there and of this type (bool is no int here).

        Raises: DataError naming file, entry and field.
        """
        if field not in self._content:
            raise DataError(f"{self.where} has no field {field!r}")
        value = self._content[field]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DataError(
                f"{self.where}: field {field!r} is {type(value).__name__}, not {kind.__name__}"
            )
        return value

    def raw(self, field: str) -> object:
        """Return a field of any type, None if it is not there."""
        return self._content.get(field)

    def has(self, field: str) -> bool:
        """Whether a field is there, be it null."""
        return field in self._content

    def entries(self, field: str) -> "Iterator[Entry]":
        """Go through a field that is a list of objects.

        Raises: DataError naming file, entry and field.
        """
        for index, content in enumerate(self.get(field, list)):
            yield Entry(content, f"{self.where}: {field}[{index}]")


def safe_image_path(folder: Path, file_name: str, where: str) -> Path:
    """Return the path of an annotated image inside its folder.

    Raises: DataError naming the annotation if the name is absolute, climbs out of the folder
    (`..`, a symbolic link) or no file of that name exists.
    """
    parts = PurePosixPath(file_name).parts
    if not parts or PurePosixPath(file_name).is_absolute() or ".." in parts or "\0" in file_name:
        raise DataError(
            f"{where}: field 'file_name' {file_name!r} leaves the image folder {folder}",
            "path",
        )
    path = folder.joinpath(*parts)
    if not os.path.isfile(path):  # Path.is_file would raise for a name that is too long
        raise DataError(
            f"{where}: the image {path} does not exist: fetch the dataset's images or correct the "
            "image folder",
            "missing image",
        )
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"{where}: field 'file_name' {file_name!r} is a link that leaves the image folder "
            f"{folder}",
            "path",
        )
    return path

"""Careful access to JSON annotation files: every error names the file and the field."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from system.errors import DataError

Value = TypeVar("Value")


def load_annotation_json(path: Path, field: str) -> Any:
    """Read a JSON file of a dataset; `field` is the config field that names it.

    Raises: DataError if the file is missing, unreadable or not JSON.
    """
    try:
        with path.open("rb") as stream:
            return json.load(stream)
    except FileNotFoundError as error:
        raise DataError(
            f"{field}: the file {path} does not exist: fetch the dataset's annotations or correct "
            "this field"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read as JSON ({error}): fetch the file again"
        ) from error


class Entry:
    """One JSON object of an annotation file that knows where it stands, for error messages."""

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
            f"{where}: field 'file_name' {file_name!r} leaves the image folder {folder}"
        )
    path = folder.joinpath(*parts)
    if not path.is_file():
        raise DataError(
            f"{where}: the image {path} does not exist: fetch the dataset's images or correct the "
            "image folder"
        )
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"{where}: field 'file_name' {file_name!r} is a link that leaves the image folder "
            f"{folder}"
        )
    return path

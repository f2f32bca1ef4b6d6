"""Checked access to JSON annotation files: every error names the file and the field."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from system.data.prepare.json_text import JsonError, JsonText, Unreadable
from system.errors import DataError

Value = TypeVar("Value")

_MEGABYTE = 1 << 20


def load_annotation_json(path: Path, field: str) -> Any:
    """Read a JSON file of a dataset; `field` is the config field that names it.

    Raises: DataError if the file is missing, unreadable or not JSON.
    """
    with _opened(path, field) as stream:
        text = JsonText(stream, chunk_bytes=path.stat().st_size + 1)
        value = text.value()
        text.finish()
    if isinstance(value, Unreadable):
        raise DataError(f"{path}: {value.reason}")
    return value


def read_items(
    path: Path, field: str, listing: str, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, object]]:
    """Go through a list of a JSON file, one item in memory at a time: its place, its content.

    As `read_lists`, for one list.
    """
    for _, where, content in read_lists(path, field, (listing,), progress):
        yield where, content


def read_lists(
    path: Path,
    field: str,
    listings: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, str, object]]:
    """Go through lists of a JSON file in its order, one item in memory at a time.

    `field` is the config field that names the file; `listings` are the lists' fields in the file's
    object, or one "" for a file that is a list. `progress` gets megabytes read and of the file.
    Returns: for each item its list, its place and its content, of which `Entry` is made.
    Raises: DataError if the file is missing, unreadable, damaged or lacks one of the lists.
    """
    reported = 0
    missing = dict.fromkeys(listings)
    with _opened(path, field) as stream:
        text, size = JsonText(stream), path.stat().st_size // _MEGABYTE
        for listing in _fields(path, text, listings):
            if listing not in missing:
                if listing in listings:
                    raise DataError(f"{path}: field {listing!r} is there twice")
                _pass_over(text)
                continue
            del missing[listing]
            if text.peek() != "[":
                text.value()  # what is no JSON at all is said first
                if listing:
                    raise DataError(f"{path}: field {listing!r} is not a list")
                text.finish()
                raise DataError(f"{path}: the file is not a list")
            for number, _ in enumerate(text.items()):
                where = f"{path}: {listing}[{number}]"
                try:
                    content = text.value()
                except JsonError as error:
                    raise JsonError(f"{error}, in {listing}[{number}]", error.remedy) from error
                yield listing, where, content
                if progress is not None and text.bytes_read // _MEGABYTE > reported:
                    reported = text.bytes_read // _MEGABYTE
                    progress(reported, size)
        text.finish()
    for listing in missing:
        raise DataError(f"{path} has no field {listing!r}")


def _fields(path: Path, text: JsonText, listings: Sequence[str]) -> Iterator[str]:
    """Go through the fields of the file's object; a file that is to be a list is one, "\"\""."""
    if "" in listings:
        yield ""
    elif text.peek() == "{":
        yield from text.fields()
    else:
        text.value()  # as above
        raise DataError(f"{path} has no field {listings[0]!r}: it is not an object")


def _pass_over(text: JsonText) -> None:
    """Go behind a value, a list item by item, as it may be the larger part of the file."""
    if text.peek() == "[":
        for _ in text.items():
            text.value()
    else:
        text.value()


@contextmanager
def _opened(path: Path, field: str) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise DataError(
            f"{field}: the file {path} does not exist: fetch the dataset's annotations or correct "
            "this field"
        ) from error
    except JsonError as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}): {error.remedy}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}): fetch the file again") from error


def shortened(value: object, length: int = 80) -> str:
    """Show a value in a message: a long one without its middle, bytes by their number."""
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, dict):
        inside = ", ".join(f"{key!r}: {shortened(item)}" for key, item in value.items())
        return f"{{{inside}}}"
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 10]} ... {text[-5:]}"


def identifier(value: object, where: str, field: str) -> str:
    """Return an id as text: a whole number from 0 on, of any size, or a text that is not empty.

    A whole number may be written with a fraction of 0, as tables with gaps have it.
    Raises: DataError naming the field of the entry at `where`.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.strip():
        return checked_text(value, where, field)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    raise DataError(
        f"{where}: field {field!r} is {shortened(value)}, neither a whole number from 0 on nor a "
        "text"
    )


def checked_text(value: str, where: str, field: str) -> str:
    """Return a text that can be stored. Raises: DataError for one with half a surrogate pair."""
    if value.isascii():  # nearly all are
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: field {field!r} is {shortened(value)}, no Unicode", "text"
        ) from error
    return value


class Entry:
    """One JSON object of an annotation file; `where` is its place, for error messages."""

    __slots__ = ("_content", "where")

    def __init__(self, content: object, where: str) -> None:
        self.where = where
        if isinstance(content, Unreadable):
            raise DataError(f"{where}: {content.reason}", "unreadable entry")
        if not isinstance(content, dict):
            raise DataError(f"{where} is not an object but {type(content).__name__}")
        self._content: dict[str, Any] = content

    def get(self, field: str, kind: type[Value]) -> Value:
        """Return a field that must be there and of this type.

        Bool is no int here; a whole number written with a fraction of 0 is one.
        Raises: DataError naming file, entry and field.
        """
        if field not in self._content:
            raise DataError(f"{self.where} has no field {field!r}")
        value = self._content[field]
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DataError(
                f"{self.where}: field {field!r} is {type(value).__name__}, not {kind.__name__}"
            )
        if isinstance(value, str):
            checked_text(value, self.where, field)
        return value

    def identifier(self, field: str) -> str:
        """Return a field that must be there and an id, as text.

        Raises: DataError naming file, entry and field.
        """
        if field not in self._content:
            raise DataError(f"{self.where} has no field {field!r}")
        return identifier(self._content[field], self.where, field)

    def readable_id(self, field: str) -> str | None:
        """Return an id as text, None if there is none that can be read."""
        with suppress(DataError):
            return self.identifier(field)
        return None

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

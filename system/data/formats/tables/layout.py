"""What a table's rows are for any reader, and how a user says what a file's suffix does not."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from system.data.shards.faults import Faults
from system.errors import ConfigError

#: A row's place in the file, for messages, and its values by column.
Row = tuple[str, Mapping[str, Any]]

TableFormat = Literal["csv", "tsv", "token", "jsonl", "json", "parquet"]

UNKNOWN_SPLIT = "unknown"  # split of a broken row that names none

IMAGE_SUFFIX = r"\.(?:jpe?g|png|webp|bmp|gif|tiff?)"  # a pattern, for any case

#: What a table looks like, for errors about one that does not.
CSV_EXAMPLE = (
    "A CSV that can be read, in three lines: [file_name,caption] "
    '[cats/001.jpg,"a cat, asleep"] [cats/002.jpg,a cat at a window]'
)


_IMAGE_NAME = re.compile(rf".*\S{IMAGE_SUFFIX}(?:#\d+)?\s*", re.IGNORECASE | re.DOTALL)


def names_image(value: str) -> bool:
    """Whether a value looks like an image's name, perhaps with a caption's number (`a.jpg#0`)."""
    return _IMAGE_NAME.fullmatch(value) is not None


class Table(Protocol):
    """One file of rows with named columns."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns, in the file's order."""

    @property
    def images(self) -> Sequence[str]:
        """Names of the columns that hold encoded images."""

    @property
    def advice(self) -> str:
        """What to do if the columns are not those that were expected, or nothing."""

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the rows; only the named columns are read.

        A row that cannot be read is a broken row: see `Faults.row`.
        """
        ...


@dataclass(frozen=True)
class TableLayout:
    """What a file's suffix and first bytes do not say; null: as they say.

    `separator` is that of delimited text; `header`: whether its first row names the columns, which
    are called 1, 2, and so on if not; `encoding` is that of text, as Python names it.
    """

    format: TableFormat | None = None
    separator: str | None = None
    header: bool = True
    encoding: str | None = None

    def __post_init__(self) -> None:
        separator = self.separator_character
        if separator is not None and (len(separator) != 1 or separator in '"\r\n\0'):
            raise ConfigError(
                f"benchmark.options.separator={self.separator!r} is not one character: give it "
                "such as 'benchmark.options.separator=\";\"', or \\t for a tab"
            )

    @property
    def separator_character(self) -> str | None:
        """The separator itself: a tab may be written as \\t or by its name."""
        return "\t" if self.separator in ("\\t", "tab") else self.separator

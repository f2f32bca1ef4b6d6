"""Text files of users: their encoding, and lines that are bounded, numbered and checked."""

import codecs
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from system.errors import ConfigError, DataError

LONGEST_LINE = 1 << 24  # characters
_LONGEST_QUOTED = 1 << 20  # characters of a row whose quotes hold line breaks
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What Python makes of bytes that are not of the encoding (`surrogateescape`).
_UNDECODED = re.compile("[\udc80-\udcff]")


def first_line(path: Path, encoding: str | None) -> str:
    """Read a file's first line that is not blank, cut where it gets long, to tell its format.

    Raises: OSError, ConfigError for an unknown encoding, DataError for another one than it says.
    """
    with opened(path, encoding_of(path, encoding)) as stream:
        for _ in range(100):
            line = stream.readline(1 << 16)
            if line.strip() or not line:
                return line
    return ""


class BrokenLineError(Exception):
    """A line that is no text that could be a row's, or too many of them."""


class Lines:
    """A file's lines, where those of a broken row can be read again."""

    def __init__(self, stream: TextIO, encoding: str) -> None:
        self._stream, self._encoding = stream, encoding
        self._again: deque[str] = deque()
        self.record: list[str] = []
        self._number, self._size = 1, 0

    def begin(self) -> int:
        """Begin a row. Returns: the number of its first line."""
        self._number += len(self.record)
        self.record.clear()
        self._size = 0
        return self._number

    def put_back(self) -> None:
        """Give all lines of this row but the first to the rows that follow."""
        self._again.extendleft(reversed(self.record[1:]))
        del self.record[1:]

    def fault(self) -> str | None:
        """Say why the row's lines cannot be text, if so."""
        for line in self.record:
            if "\0" in line:
                return (
                    "holds a NUL byte: the file is damaged, or UTF-16 without a byte-order mark "
                    "(benchmark.options.encoding=utf-16-le)"
                )
            if not line.isascii() and _UNDECODED.search(line):
                return _not_decoded(self._encoding)
        return None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._stream.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.record.append(line)
        self._size += len(line)
        if len(line) == LONGEST_LINE and not line.endswith(("\n", "\r")):
            while True:
                rest = self._stream.readline(LONGEST_LINE)
                if not rest or rest.endswith(("\n", "\r")):
                    break
            raise BrokenLineError(f"is longer than {LONGEST_LINE} characters")
        if len(self.record) > 1 and self._size > _LONGEST_QUOTED:
            raise BrokenLineError(
                "breaks its own quoting: a quote that it opens is not closed within "
                f"{_LONGEST_QUOTED} characters"
            )
        return line


def _not_decoded(encoding: str) -> str:
    """Say what to do about text that is not of the encoding that it should be."""
    if encoding not in ("utf-8", "utf-8-sig"):
        return f"is not {encoding} text: correct benchmark.options.encoding"
    return (
        "is not UTF-8 text but perhaps cp1252, as Excel writes on Windows: set "
        "benchmark.options.encoding=cp1252 (or the one it is), or convert the file: "
        "iconv -f CP1252 -t UTF-8 OLD > NEW"
    )


def encoding_of(path: Path, named: str | None) -> str:
    """Return the encoding that the user or a byte-order mark names, else UTF-8.

    Raises: OSError, ConfigError for a name that is unknown.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    for mark, encoding in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            # A mark belongs to no value, whichever way the encoding was named.
            same = named is None or _codec_name(named).startswith(_codec_name(encoding)[:5])
            return encoding if same else _codec_name(named or "")
    return "utf-8" if named is None else _codec_name(named)


def _codec_name(encoding: str) -> str:
    """Return an encoding's own name. Raises: ConfigError if it is none of text."""
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, UnicodeError, ValueError) as error:
        raise ConfigError(
            f"benchmark.options.encoding={encoding!r} is unknown: name one such as utf-8, cp1252, "
            "utf-16"
        ) from error


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """Open a text file for `Lines`. Raises: OSError, DataError if it is not of that encoding."""
    with path.open("r", encoding=encoding, errors="surrogateescape", newline="") as stream:
        try:
            yield stream
        except UnicodeError as error:  # of encodings that have no way to go on
            raise DataError(f"{path}: {_not_decoded(encoding)} ({error})") from error

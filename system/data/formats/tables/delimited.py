"""Delimited text: rows that break their own quoting are found one by one.

Comma-separated files quote as RFC 4180 says; in tab-separated ones a quote is a character.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from system.data.formats.tables.layout import (
    CSV_EXAMPLE,
    IMAGE_SUFFIX,
    UNKNOWN_SPLIT,
    Row,
    TableLayout,
    names_image,
)
from system.data.formats.tables.text_lines import (
    LONGEST_LINE,
    BrokenLineError,
    Lines,
    encoding_of,
    opened,
)
from system.data.prepare.annotations import shortened
from system.data.shards.faults import Faults
from system.errors import DataError

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
_TOKEN = re.compile(r"([^\t]+?)#\d+[ \t]*\t(.*)", re.DOTALL)


class DelimitedTable:
    """Text with a row per line and a character between its values, which come as text."""

    images: Sequence[str] = ()

    def __init__(self, path: Path, layout: TableLayout, *, quoted: bool) -> None:
        """`quoted`: whether values may stand in quotes, then with separators and line breaks.

        Raises: DataError if there is no row, or none that could name the columns.
        """
        self._path, self._quoted, self._header = path, quoted, layout.header
        self._separator = layout.separator_character or ("," if quoted else "\t")
        self._encoding = encoding_of(path, layout.encoding)
        self._spaced = False
        self.columns: Sequence[str] = self._find_columns()

    @property
    def advice(self) -> str:
        """What to do about columns that are not those expected: mostly another separator."""
        if not self._header:
            return ""
        named = (
            "the first row must name the columns (or set benchmark.options.header=false and number "
            "them, such as benchmark.options.columns.file_name=1)"
        )
        if self._separator == "\t" and any(name.startswith('"') for name in self.columns):
            return (
                "its values stand in quotes: set benchmark.options.format=csv "
                "'benchmark.options.separator=\"\\t\"'"
            )
        if len(self.columns) > 1:
            return named
        counts = {other: self.columns[0].count(other) for other in _SEPARATORS}
        best = max(counts, key=lambda other: counts[other])
        if not counts[best]:
            return named
        shown = "\\t" if best == "\t" else best
        return (
            f"its values are separated by {_SEPARATORS[best]}: set "
            f"'benchmark.options.separator=\"{shown}\"'"
        )

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the rows; a row that is not as the header says is a broken one."""
        wanted = [(name, self.columns.index(name)) for name in columns]
        width, number = len(self.columns), 0
        for line, content in self._records(skip_header=self._header):
            if isinstance(content, list) and not any(content):
                continue  # a blank line, or one of separators alone as spreadsheets write them
            number += 1
            if isinstance(content, list) and len(content) == width and not self._quotes(content):
                if self._spaced:
                    content = [value.lstrip(" ") for value in content]
                yield f"{self._path}, row {number}", {name: content[i] for name, i in wanted}
                continue
            where = f"{self._path}, row {number}"
            with faults.row(UNKNOWN_SPLIT, where):
                reason = self._miscounted(content) if isinstance(content, list) else content
                raise DataError(f"{where} (line {line}): {reason}", "broken row")

    def _find_columns(self) -> list[str]:
        first = next((row for row in self._records() if row[1]), None)
        if first is None:
            raise DataError(f"{self._path}: is empty. {CSV_EXAMPLE}")
        line, names = first
        if isinstance(names, str):
            raise DataError(f"{self._path}, line {line}: {names}")
        if not self._header:
            return [str(number) for number in range(1, len(names) + 1)]
        if any(map(names_image, names)):
            self._refuse_headless(names)
        # As in `name| number| comment`: the spaces belong to the separators. Behind commas and
        # spaces there may be quotes.
        self._spaced = len(names) > 1 and all(name.startswith(" ") for name in names[1:])
        return [name.strip() for name in names]

    def _refuse_headless(self, names: Sequence[str]) -> None:
        token = (
            "" if "#" not in names[0] else ", or, for name.jpg#0, benchmark.options.format=token"
        )
        raise DataError(
            f"{self._path}: has no header: its first row is {shortened(names)}. Write a line that "
            "names the columns above it, or number them: benchmark.options.header=false "
            "benchmark.options.columns.file_name=1 benchmark.options.columns.caption="
            f"{len(names)}{token}. {CSV_EXAMPLE}"
        )

    def _quotes(self, values: Sequence[str]) -> bool:
        """Whether values are quoted although the format has no quotes.

        A value in quotes with doubled ones inside is nobody's caption.
        """
        return not self._quoted and any(
            value[:1] == value[-1:] == '"'
            and '""' in value[1:-1]
            and '"' not in value[1:-1].replace('""', "")
            for value in values
        )

    def _miscounted(self, values: Sequence[str]) -> str:
        separator = self._separator
        if not self._quoted and any(value[:1] == '"' for value in values):
            shown = "\\t" if separator == "\t" else separator
            return (
                "has values in quotes, which are characters in this format: set "
                f"benchmark.options.format=csv 'benchmark.options.separator=\"{shown}\"'"
            )
        less = len(values) < len(self.columns)
        advice = (
            f"a value that holds {separator!r} must stand in double quotes, without a space before "
            "the first"
        )
        if less or not self._quoted:
            advice = "correct the row"
        return (
            f"has {len(values)} values, {'fewer' if less else 'more'} than the "
            f"{len(self.columns)} columns: {advice}"
        )

    def _records(self, skip_header: bool = False) -> Iterator[tuple[int, list[str] | str]]:
        """Go through all rows: the number of the first line, and values or why there are none."""
        # Other code of this process may rely on a larger limit, hardly on a smaller one.
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
        with opened(self._path, self._encoding) as stream:
            lines = Lines(stream, self._encoding)
            reader = csv.reader(
                lines,
                delimiter=self._separator,
                quoting=csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE,
                strict=self._quoted,
                skipinitialspace=self._spaced and self._separator in ",;",
            )
            while True:
                line = lines.begin()
                content: list[str] | str
                try:
                    content = next(reader)
                    reason = lines.fault()
                    if reason is None and len(lines.record) > 1:
                        reason = self._swallowed(lines.record, line)
                except StopIteration:
                    return
                except BrokenLineError as error:
                    reason = str(error)
                except csv.Error as error:
                    reason = lines.fault() or (
                        f"breaks its own quoting ({error}): close each quote and double quotes "
                        "inside of one, or, if they are meant as characters, set "
                        f"benchmark.options.format=tsv 'benchmark.options.separator="
                        f'"{self._separator}"\''
                    )
                if reason is not None:
                    content = reason
                    lines.put_back()
                if skip_header and content:
                    skip_header = False
                    continue
                yield line, content

    def _swallowed(self, record: Sequence[str], line: int) -> str | None:
        """Tell a row that reaches into the next image's row: its quote was not closed."""
        begins = rf'"?[^"\n]*\S{IMAGE_SUFFIX}"?\s*{re.escape(self._separator)}'
        for number, text in enumerate(record[1:], line + 1):
            if re.match(begins, text, re.IGNORECASE):
                return (
                    f"breaks its own quoting: a quote that it opens is not closed before line "
                    f"{number}, which is another image's row"
                )
        return None


class TokenTable:
    """Flickr8k's token file: `name.jpg#0`, a tab and a caption per line, no header."""

    columns: Sequence[str] = ("image", "caption")
    images: Sequence[str] = ()
    advice = ""

    def __init__(self, path: Path, layout: TableLayout) -> None:
        self._path, self._encoding = path, encoding_of(path, layout.encoding)

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the lines; one that is not of this form is a broken row."""
        with opened(self._path, self._encoding) as stream:
            lines, number = Lines(stream, self._encoding), 0
            while True:
                lines.begin()
                reason = None
                text = ""
                try:
                    text = next(lines).rstrip("\r\n")
                    reason = lines.fault()
                except StopIteration:
                    return
                except BrokenLineError as error:
                    reason = str(error)
                if not text.strip() and reason is None:
                    continue
                number += 1
                where = f"{self._path}, row {number}"
                found = _TOKEN.fullmatch(text)
                if reason is None and found is not None:
                    values = dict(zip(self.columns, found.groups(), strict=True))
                    yield where, {name: values[name] for name in columns}
                    continue
                with faults.row(UNKNOWN_SPLIT, where):
                    reason = reason or f"{shortened(text)} is not NAME#NUMBER, a tab and a caption"
                    raise DataError(f"{where}: {reason}", "broken row")


def is_token_line(line: str) -> bool:
    """Whether a line is one of Flickr8k's token file: `name.jpg#0`, a tab, a caption."""
    found = _TOKEN.fullmatch(line)
    return found is not None and names_image(found[1])

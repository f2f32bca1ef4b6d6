"""A user's own data set: its options, and the checked rows and images of its table."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from system.data.formats.column_names import Columns, FoundColumns
from system.data.formats.folder_splits import (
    KNOWN_SPLITS,
    Division,
    Draw,
    Shares,
    SplitBy,
    TaskBy,
    split_named,
)
from system.data.formats.image_groups import ImageGroup
from system.data.formats.parquet_images import TableImage
from system.data.formats.tables.layout import UNKNOWN_SPLIT, TableFormat, TableLayout
from system.data.formats.text_lists import listed
from system.data.prepare.annotations import identifier, shortened
from system.data.prepare.captions import checked_caption
from system.data.prepare.image_files import find_image, safe_image_path
from system.data.prepare.pipeline import ReaderOptions
from system.data.shards.schema import ImageRecord
from system.errors import DataError

_NUMBER = re.compile(r"\s*-?[0-9]{1,100}(?:\.0*)?\s*")


@dataclass(frozen=True)
class FolderSource(ReaderOptions):
    """A folder of images with a table of captions, and how it becomes a benchmark.

    `captions` and `images` are relative to `root`; `format`, `separator`, `header` and `encoding`
    say what the table's suffix does not. `split_by` and `task_by` say where an image's split and
    task come from; null: a column, else what the names of all images show, else a draw by `shares`
    and one task called `task_name`. `tasks` orders tasks and leaves out others; null: as they first
    appear.
    """

    captions: str = "captions.csv"
    images: str = "."
    format: TableFormat | None = None
    separator: str | None = None
    header: bool = True
    encoding: str | None = None
    columns: Columns = field(default_factory=Columns)
    split_by: SplitBy | None = None
    task_by: TaskBy | None = None
    task_name: str = "all"
    tasks: tuple[str, ...] | None = None
    shares: Shares = field(default_factory=Shares)

    @property
    def layout(self) -> TableLayout:
        """How the table is written. Raises: ConfigError for a separator that cannot be one."""
        return TableLayout(self.format, self.separator, self.header, self.encoding)


@dataclass(frozen=True, slots=True)
class ImageName:
    """An image as a row names it; `key` is the same for all of its rows, and for no other's."""

    name: str
    key: str
    image: TableImage | None


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One checked row: its cleaned captions and its image's fields (None: not given)."""

    captions: tuple[str, ...]
    task: str | None
    split: str | None
    image_id: str | None


class FolderRows:
    """Reads rows and images by the options; `columns` are those of the table.

    `embedded`: whether the images lie in the table, else in `folder`.
    """

    def __init__(
        self, source: FolderSource, columns: FoundColumns, folder: Path, *, embedded: bool
    ) -> None:
        self._source, self._columns, self._folder = source, columns, folder
        self._embedded = embedded

    @property
    def has_ids(self) -> bool:
        """Whether a column says images' ids, so that two may have the same."""
        return self._columns.image_id is not None

    def image_name(self, values: Mapping[str, Any], where: str) -> ImageName:
        """Read which image a row is about; a file name in its normal form (`./a//b` is `a/b`).

        Raises: DataError naming row and column if it is empty or no text.
        """
        column = self._columns.file_name
        if self._embedded:
            image = values.get(column)
            if not isinstance(image, TableImage):
                raise DataError(
                    f"{where}: column {column!r} holds no image, which is to lie in the table: set "
                    "benchmark.options.columns.file_name if a column names files instead",
                    "missing image",
                )
            if image.name:
                # No file is looked for under this name, so it may be any.
                name = "/".join(part for part in PurePosixPath(image.name).parts if part != "/")
                return ImageName(name, f"{name}\0{image.digest}", image)
            return ImageName(f"{Path(image.table).stem}:{image.row + 1}", image.digest, image)
        text = _text(values, column, where)
        if text is None or not text.strip():
            raise DataError(f"{where}: column {column!r} is empty")
        name = _in_normal_form(self._as_on_disk(text, where))
        if name.startswith("/") or ".." in name.split("/"):
            safe_image_path(self._folder, name, where)  # before a directory of it becomes a task
        return ImageName(name, name, None)

    def row(self, values: Mapping[str, Any], where: str) -> CaptionRow:
        """Check a row.

        Raises: DataError naming row and column for a value of the wrong type, an empty caption or
        an unknown split.
        """
        columns = self._columns
        captions = self._captions(values.get(columns.caption), where)
        told = split = None
        if columns.split is not None and self._source.split_by in (None, "column"):
            told = _text(values, columns.split, where)
        if told is not None:
            split = split_named(told)
            if split is None:
                raise DataError(
                    f"{where}: column {columns.split!r} is {shortened(told)}, not one of "
                    f"{KNOWN_SPLITS}: correct it, or set benchmark.options.columns.split=null to "
                    "ignore the column",
                    "unknown split",
                )
        task = _text(values, columns.task, where)
        return CaptionRow(
            captions,
            None if task is None else task.strip() or None,
            split,
            _identifier(values, columns.image_id, where),
        )

    def image(self, group: ImageGroup, division: Division, draw: Draw) -> tuple[str, ImageRecord]:
        """Join an image's rows to its split and its record, without size and bytes.

        Raises: DataError for the first row that `row` refused, rows that contradict each other, a
        column that is empty in all of them, or a name without the directory that says its task.
        """
        for _, values in group.rows:
            if "fault" in values:
                raise DataError(values["fault"], values["kind"])
        where, first = group.rows[0]
        name = first["name"]
        columns = self._columns
        if division.split_by == "column":
            split = _agreed(group, "split", columns.split, name)
        elif division.split_by == "directory":
            split = division.split_by_directory(name, where)
        else:
            file = "(the file's name)"
            by_file = division.split_by == "file"
            split = _agreed(group, "file_split", file, name) if by_file else draw.split_of(name)
        task = _agreed(group, "task", columns.task, name)
        if columns.task is None:
            task = division.task_without_column(name, where)
        image_id = _agreed(group, "image_id", columns.image_id, name)
        captions = tuple(text for _, values in group.rows for text in values["captions"])
        return split, ImageRecord(
            str(group.number) if image_id is None else image_id,
            name,
            b"",
            0,
            0,
            captions,
            task,
            (),
            (),
        )

    def _captions(self, value: Any, where: str) -> tuple[str, ...]:
        where = f"{where}: column {self._columns.caption!r}"
        texts = value
        if isinstance(value, str):
            try:
                texts = listed(value)
            except ValueError as error:
                raise DataError(f"{where} is {shortened(value)}, which {error}") from error
            if texts is None:
                texts = [value]
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            empty = texts in (None, []) or (isinstance(texts, float) and math.isnan(texts))
            raise DataError(
                f"{where} is {shortened(value)}, neither text nor a list of texts",
                "empty text" if empty else "annotation",
            )
        return tuple(checked_caption(text, self._source.caption_rule, where) for text in texts)

    def _as_on_disk(self, name: str, where: str) -> str:
        """Take backslashes of Windows for slashes and leave out spaces around a name.

        Unless a file is called so. A path that lies in the image folder is taken from there on.
        """
        bare = name.strip()
        if bare.startswith("/"):
            for folder in (self._folder, self._folder.resolve()):
                bare = bare.removeprefix(f"{folder}/")
            return bare
        slashed = bare.replace("\\", "/")
        if name == slashed:
            return name
        for form in (name, bare, slashed):
            if find_image(self._folder, form) is not None:
                return form
        if slashed == bare:
            return bare
        raise DataError(
            f"{where}: column {self._columns.file_name!r} is {shortened(name)}, with backslashes, "
            f"and neither that file nor {shortened(slashed)} is there: write names relative to "
            f"{self._folder} with slashes, such as cats/001.jpg",
            "missing image",
        )


def split_of_broken(group: ImageGroup, division: Division, draw: Draw) -> str:
    """Name the split of an image that may be broken: "unknown" if its first row has none."""
    _, first = group.rows[0]
    if division.split_by == "draw":
        return draw.split_of(first["name"])
    if division.split_by == "directory":
        directories = PurePosixPath(first["name"]).parts[:-1]
        return (
            next(filter(None, map(split_named, directories[division.split_place :])), None)
            or UNKNOWN_SPLIT
        )
    return str(first.get("file_split" if division.split_by == "file" else "split") or UNKNOWN_SPLIT)


def row_values(name: ImageName, row: CaptionRow, file_split: str | None) -> dict[str, Any]:
    """Return a checked row as JSON can hold it."""
    return {
        "name": name.name,
        "image": None if name.image is None else asdict(name.image),
        "file_split": file_split,
        # Other tables' rows have more; `asdict` would copy each value, of many rows.
        **{field.name: getattr(row, field.name) for field in fields(row)},
    }


def broken_values(name: ImageName, error: DataError, file_split: str | None) -> dict[str, Any]:
    """Return a broken row as JSON can hold it; it breaks its image when that one's turn comes."""
    return {
        "name": name.name,
        "file_split": file_split,
        "fault": str(error),
        "kind": error.kind,
    }


def _in_normal_form(name: str) -> str:
    parts = name.split("/")  # which is fast, as there are many rows and few such names
    return PurePosixPath(name).as_posix() if "" in parts or "." in parts else name


def _text(values: Mapping[str, Any], column: str | None, where: str) -> str | None:
    """Return a value as text, None if it is empty or there is no such column."""
    value = None if column is None else values.get(column)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"{where}: column {column!r} is {shortened(value)}, not a text")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: column {column!r} is {shortened(text)}, no Unicode", "text"
        ) from error
    return text


def _identifier(values: Mapping[str, Any], column: str | None, where: str) -> str | None:
    """Return an image's id, None if it is empty or there is no such column."""
    value = None if column is None else values.get(column)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        # Delimited text has numbers as text; a data frame with gaps wrote 7 as 7.0.
        number, point, _ = value.strip().partition(".")
        value = int(number) if point or number.startswith("-") else number
    try:
        return identifier(value, where, str(column))
    except DataError as error:
        raise DataError(
            f"{error}: correct it, or number images instead with "
            "benchmark.options.columns.image_id=null"
        ) from error


def _agreed(group: ImageGroup, role: str, column: str | None, name: str) -> Any:
    """Return the value that an image's rows agree on, None if there is no such column."""
    said: dict[Any, str] = {}
    for where, values in group.rows:
        if values[role] is not None:
            said.setdefault(values[role], where)
    if len(said) > 1:
        (first, there), (second, here), *_ = said.items()
        raise DataError(
            f"{here}: column {column!r} of image {name!r} is {second!r}, but {first!r} "
            f"in {there}: the rows contradict each other",
            "contradiction",
        )
    if column is not None and not said:
        raise DataError(
            f"{group.rows[0][0]}: column {column!r} of image {name!r} is empty: fill it in, or set "
            f"benchmark.options.columns.{role}=null to ignore the column"
        )
    return next(iter(said), None)

"""A user's own data set: its options, and the checked rows and images of its captions file."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from system.data.formats.captions_file import UNKNOWN_SPLIT, CaptionsFile
from system.data.formats.image_groups import ImageGroup
from system.data.prepare.annotations import identifier
from system.data.prepare.captions import checked_caption
from system.data.prepare.pipeline import ReaderOptions
from system.data.shards.schema import ImageRecord
from system.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Columns:
    """The captions file's columns; null for an optional one ignores it.

    An optional column that keeps its usual name is used if the file has it; another name must be
    there.
    """

    file_name: str = "file_name"
    caption: str = "caption"
    task: str | None = "task"
    split: str | None = "split"
    image_id: str | None = "image_id"

    def found_in(self, file: CaptionsFile) -> "Columns":
        """Leave out optional columns that the file has not.

        Raises: DataError naming a column that must be there, and those there are.
        """
        found: dict[str, Any] = {}
        usual = asdict(Columns())
        for role, name in asdict(self).items():
            optional = name == usual[role] and role not in ("file_name", "caption")
            if name is not None and name not in file.columns and not optional:
                raise DataError(
                    f"{file.path}: has no column {name!r}; it has {', '.join(file.columns)}: set "
                    f"benchmark.options.columns.{role}"
                )
            found[role] = name if name in file.columns else None
        return Columns(**found)

    @property
    def names(self) -> list[str]:
        """Names of the columns that are read."""
        return [name for name in asdict(self).values() if name is not None]


@dataclass(frozen=True)
class Shares:
    """Shares of a task's images, from 0 to 1, that become "val" and "test" without a split column.

    An image's split follows from `seed` and its file name alone, so it stays when rows are added.
    """

    val: float = 0.1
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.val < 0 or self.test < 0 or self.val + self.test >= 1:
            raise ConfigError(
                f"benchmark.options.shares: val={self.val} and test={self.test} must be at least 0 "
                "and leave something for train"
            )

    def split_of(self, file_name: str) -> str:
        """Draw an image's split: SHA-256 of seed and name, read as a number from 0 to 1."""
        digest = hashlib.sha256(f"{self.seed}/{file_name}".encode("utf-8", "surrogatepass"))
        drawn = int.from_bytes(digest.digest()[:8], "big") / 2**64
        if drawn < self.val:
            return "val"
        return "test" if drawn < self.val + self.test else "train"


@dataclass(frozen=True)
class FolderSource(ReaderOptions):
    """A folder of images with a captions file, and how it becomes a benchmark.

    `captions` and `images` are relative to `root`. Without a task column, `task_by` says what an
    image's task is: the first "directory" of its file name, or "dataset", one task called
    `task_name`. `tasks` orders them and leaves out others; null: as they first appear.
    """

    captions: str = "captions.csv"
    images: str = "."
    columns: Columns = field(default_factory=Columns)
    task_by: Literal["directory", "dataset"] = "directory"
    task_name: str = "all"
    tasks: tuple[str, ...] | None = None
    shares: Shares = field(default_factory=Shares)


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One checked row: its cleaned captions and its image's fields (None: not given)."""

    captions: tuple[str, ...]
    task: str | None
    split: str | None
    image_id: str | None


class FolderRows:
    """Reads rows and images by the options; `columns` are those that the file has."""

    def __init__(self, source: FolderSource, columns: Columns) -> None:
        self._source, self._columns = source, columns

    def file_name(self, values: Mapping[str, Any], where: str) -> str:
        """Read a row's file name in its normal form (`./a//b` is `a/b`).

        Raises: DataError naming row and column if it is empty or no text.
        """
        name = _text(values, self._columns.file_name, where)
        if name is None:
            raise DataError(f"{where}: column {self._columns.file_name!r} is empty")
        return PurePosixPath(name).as_posix()

    def row(self, file_name: str, values: Mapping[str, Any], where: str) -> CaptionRow:
        """Check a row.

        Raises: DataError naming row and column for a value of the wrong type, an empty caption, an
        unknown split, or a file name without a directory if that is the task.
        """
        columns = self._columns
        captions = values.get(columns.caption)
        texts: list[Any] = captions if isinstance(captions, list) else [captions]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"{where}: column {columns.caption!r} is {captions!r}, neither text nor a list of "
                "texts",
                "empty text" if captions in (None, []) else "annotation",
            )
        split = _text(values, columns.split, where)
        if split not in (None, *SPLITS):
            raise DataError(
                f"{where}: column {columns.split!r} is {split!r}, not one of {', '.join(SPLITS)}"
            )
        task = _text(values, columns.task, where)
        if columns.task is None:
            task = self._task_of(file_name, where)
        image_id = None if columns.image_id is None else values.get(columns.image_id)
        if image_id not in (None, ""):
            image_id = identifier(image_id, where, columns.image_id or "")
        where = f"{where}: column {columns.caption!r}"
        return CaptionRow(
            tuple(checked_caption(text, self._source.caption_rule, where) for text in texts),
            task,
            split,
            image_id or None,
        )

    def image(self, group: ImageGroup) -> tuple[str, ImageRecord]:
        """Join an image's rows to its split and its record, without size and bytes.

        Raises: DataError for the first row that `row` refused, rows that contradict each other, or
        a column that is empty in all of them.
        """
        for _, values in group.rows:
            if "fault" in values:
                raise DataError(values["fault"], values["kind"])
        split, task, image_id = (
            _agreed(group, role, column)
            for role, column in (
                ("split", self._columns.split),
                ("task", self._columns.task),
                ("image_id", self._columns.image_id),
            )
        )
        captions = tuple(text for _, values in group.rows for text in values["captions"])
        return self.split_of(group) if split is None else split, ImageRecord(
            str(group.number) if image_id is None else image_id,
            group.file_name,
            b"",
            0,
            0,
            captions,
            task,
            (),
            (),
        )

    def split_of(self, group: ImageGroup) -> str:
        """Name the split of an image that may be broken: "unknown" if its first row has none."""
        if self._columns.split is None:
            return self._source.shares.split_of(group.file_name)
        return str(group.rows[0][1].get("split") or UNKNOWN_SPLIT)

    def _task_of(self, file_name: str, where: str) -> str:
        if self._source.task_by == "dataset":
            return self._source.task_name
        directory, *rest = PurePosixPath(file_name).parts
        if not rest:
            raise DataError(
                f"{where}: file name {file_name!r} has no directory that could be its task: set "
                "benchmark.options.task_by=dataset or add a task column"
            )
        return directory


def _text(values: Mapping[str, Any], column: str | None, where: str) -> str | None:
    """Return a value as text, None if it is empty or there is no such column."""
    value = None if column is None else values.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(f"{where}: column {column!r} is {value!r}, not a text")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: column {column!r} is {text!r}, no Unicode", "text") from error
    return text


def _agreed(group: ImageGroup, role: str, column: str | None) -> Any:
    """Return the value that an image's rows agree on, None if none of them has one."""
    said: dict[Any, str] = {}
    for where, values in group.rows:
        if values[role] is not None:
            said.setdefault(values[role], where)
    if len(said) > 1:
        (first, there), (second, here), *_ = said.items()
        raise DataError(
            f"{here}: column {column!r} of image {group.file_name!r} is {second!r}, but {first!r} "
            f"in {there}: the rows contradict each other",
            "contradiction",
        )
    if column is not None and not said:
        raise DataError(
            f"{group.rows[0][0]}: column {column!r} of image {group.file_name!r} is empty"
        )
    return next(iter(said), None)

"""From the rows of a user's captions file to checked images."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from system.data.formats.captions_file import UNKNOWN_SPLIT
from system.data.formats.folder_options import SPLITS, Columns, FolderSource
from system.data.formats.image_groups import ImageGroup
from system.data.prepare.captions import checked_caption
from system.data.shards.schema import ImageRecord
from system.errors import DataError


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One checked row: its captions, cleaned, and what it says of its image (None: nothing)."""

    captions: tuple[str, ...]
    task: str | None
    split: str | None
    image_id: int | None


class FolderRows:
    """Reads rows and images by the options; `columns` are those that the file has."""

    def __init__(self, source: FolderSource, columns: Columns) -> None:
        self._source, self._columns = source, columns

    def file_name(self, values: Mapping[str, Any], where: str) -> str:
        """Read a row's file name, the one spelling of it that stands for all (`./a//b` is `a/b`).

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
        image_id = _text(values, columns.image_id, where)
        # Eighteen digits always fit into 64 bits.
        if image_id is not None and not re.fullmatch(r"[0-9]{1,18}", image_id):
            raise DataError(f"{where}: column {columns.image_id!r} is {image_id!r}, not a number")
        where = f"{where}: column {columns.caption!r}"
        return CaptionRow(
            tuple(checked_caption(text, self._source.caption_rule, where) for text in texts),
            task,
            split,
            None if image_id is None else int(image_id),
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
            group.number if image_id is None else image_id,
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
    """Return the one value that an image's rows have, None if nothing is said of it at all."""
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

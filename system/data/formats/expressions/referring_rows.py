"""A user's own referring expressions: rows of a table that name an image, a text and a box."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from system.data.formats.captions_file import CaptionsFile
from system.data.formats.coco_entries import Box, ImageEntry, checked_box, read_mask
from system.data.formats.column_names import AUTO, Columns, FoundColumns
from system.data.formats.folder_rows import CaptionRow, FolderRows, FolderSource, ImageName
from system.data.formats.folder_splits import Division, Draw, Shares, SplitBy, TaskBy
from system.data.formats.image_groups import ImageGroup
from system.data.formats.placing import stored_image
from system.data.formats.tables.layout import TableFormat
from system.data.prepare.annotations import Entry, shortened
from system.data.prepare.image_files import ImageReader
from system.data.prepare.pipeline import ReaderOptions
from system.data.shards.images import image_size
from system.data.shards.schema import Expression, ImageRecord, Instance
from system.errors import DataError
from system.storage.foreign_json import parse_json

BoxFormat = Literal["xywh", "xyxy"]

# Of the first of these kinds that a table has.
_EXPRESSIONS = (
    ("expression", "expressions", "phrase", "phrases", "ref", "refexp", "query"),
    ("caption", "captions", "sent", "sentence", "sentences", "text"),
)
_BOXES = ("box", "bbox", "bounding_box")
_MASKS = ("mask", "segmentation")
_SIDES: tuple[tuple[BoxFormat, tuple[str, ...]], ...] = (
    ("xywh", ("x", "y", "width", "height")),
    ("xywh", ("x", "y", "w", "h")),
    ("xyxy", ("xmin", "ymin", "xmax", "ymax")),
    ("xyxy", ("x1", "y1", "x2", "y2")),
)
_SEPARATORS = re.compile(r"[\s,;\[\]()]+")


@dataclass(frozen=True)
class ReferringColumns:
    """Columns by what they hold, as `Columns` has them; a box is one column or four."""

    file_name: str | int = AUTO
    expression: str | int = AUTO
    box: str | tuple[str, ...] = AUTO
    mask: str | None = AUTO
    task: str | int | None = AUTO
    split: str | int | None = AUTO
    image_id: str | int | None = AUTO


@dataclass(frozen=True)
class ReferringSource(ReaderOptions):
    """Images with a table of referring expressions, and how they become a benchmark.

    `expressions` and `images` are relative to `root`; the table, splits and tasks are as in
    `FolderSource`, but a row's task is that of its object, and without any all objects are one
    task. `box_format` says whether a box is left, top, width, height or left, top, right, bottom,
    in pixels; null: as the names of its four columns say.
    """

    expressions: str = "expressions.csv"
    images: str = "."
    format: TableFormat | None = None
    separator: str | None = None
    header: bool = True
    encoding: str | None = None
    columns: ReferringColumns = field(default_factory=ReferringColumns)
    box_format: BoxFormat | None = None
    split_by: SplitBy | None = None
    task_by: TaskBy = "dataset"
    task_name: str = "all"
    tasks: tuple[str, ...] | None = None
    shares: Shares = field(default_factory=Shares)

    @property
    def folder(self) -> FolderSource:
        """The same options for what reads tables of captions: an expression is a caption there."""
        shared = {
            name: value
            for name, value in vars(self).items()
            if name not in ("expressions", "columns", "box_format")
        }
        return FolderSource(captions=self.expressions, **shared)


@dataclass(frozen=True)
class ReferringTable:
    """Columns of a table as they were found: `box` is one or four, `mask` may be none."""

    columns: FoundColumns
    box: tuple[str, ...]
    box_format: BoxFormat
    mask: str | None

    @classmethod
    def found_in(cls, file: CaptionsFile, source: ReferringSource) -> "ReferringTable":
        """Find the columns.

        Raises: DataError naming one that must be there, and those there are.
        """
        given = source.columns
        expression = given.expression
        if expression == AUTO:
            expression = _find_expression(file)
        elif str(expression) not in file.columns:
            raise _no_column(file, str(expression), "expression")
        columns = Columns(given.file_name, expression, given.task, given.split, given.image_id)
        box, box_format = _find_box(file, given.box)
        box_format = source.box_format or box_format
        if box_format is None:
            raise DataError(
                f"{file.path}: column {box[0]!r} may be left, top, width, height or left, top, "
                "right, bottom: set benchmark.options.box_format to xywh or xyxy"
            )
        mask = given.mask
        if mask == AUTO:
            mask = next((name for name in file.columns if name.casefold() in _MASKS), None)
        elif mask is not None and mask not in file.columns:
            raise _no_column(file, mask, "mask")
        return cls(columns.found_in(file), box, box_format, mask)

    @property
    def names(self) -> list[str]:
        """Names of the columns that are read."""
        extra = [] if self.mask is None else [self.mask]
        return list(dict.fromkeys((*self.columns.names, *self.box, *extra)))


def _find_expression(file: CaptionsFile) -> str:
    for kind in _EXPRESSIONS:
        found = [name for name in file.columns if name.casefold() in kind]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"{file.path}: its columns {', '.join(map(shortened, found))} could all be the "
                "expression: set benchmark.options.columns.expression to the one that is meant"
            )
    raise _no_column(file, "expression", "expression")


def _find_box(
    file: CaptionsFile, given: str | tuple[str, ...]
) -> tuple[tuple[str, ...], BoxFormat | None]:
    if given != AUTO:
        names = (given,) if isinstance(given, str) else given
        for name in names:
            if name not in file.columns:
                raise _no_column(file, name, "box")
        if len(names) not in (1, 4):
            raise DataError("benchmark.options.columns.box: a box is one column or four")
        return names, None
    own = {name.casefold(): name for name in file.columns}
    for name in _BOXES:
        if name in own:
            return (own[name],), None
    for box_format, names in _SIDES:
        if all(name in own for name in names):
            return tuple(own[name] for name in names), box_format
    raise _no_column(file, " or ".join(_BOXES), "box")


def _no_column(file: CaptionsFile, name: str, role: str) -> DataError:
    return DataError(
        f"{file.path}: has no column {name!r}; it has {', '.join(map(shortened, file.columns))}: "
        f"set benchmark.options.columns.{role}"
    )


@dataclass(frozen=True, slots=True)
class ReferringRow(CaptionRow):
    """One checked row: the box as left, top, width, height, and its outline as it is written."""

    box: Box
    mask: object


class ReferringRows(FolderRows):
    """Reads rows and images; an image's objects of one task are a row of the benchmark."""

    def __init__(
        self,
        source: ReferringSource,
        table: ReferringTable,
        folder: Path,
        images: ImageReader,
        *,
        embedded: bool,
    ) -> None:
        super().__init__(source.folder, table.columns, folder, embedded=embedded)
        self._table, self._images = table, images

    @override
    def image_name(self, values: Mapping[str, Any], where: str) -> ImageName:
        name = super().image_name(values, where)
        task = self._table.columns.task
        if task is None:
            return name
        return replace(name, key=f"{name.key}\0{values.get(task)!a}")

    @override
    def row(self, values: Mapping[str, Any], where: str) -> ReferringRow:
        row = super().row(values, where)
        given = [values.get(name) for name in self._table.box]
        numbers = _numbers(given[0] if len(given) == 1 else given)
        named = f"{where}: column {', '.join(map(repr, self._table.box))}"
        if numbers is None:
            shown = shortened(given[0] if len(given) == 1 else given)
            raise DataError(f"{named} is {shown}, not four numbers", "box")
        left, top, width, height = numbers
        if self._table.box_format == "xyxy":
            width, height = width - left, height - top
        if min(width, height) <= 0:
            raise DataError(f"{named} is a box without area as {self._table.box_format}", "box")
        mask = None if self._table.mask is None else _outline(values.get(self._table.mask), where)
        return ReferringRow(**asdict(row), box=(left, top, width, height), mask=mask)

    @override
    def image(self, group: ImageGroup, division: Division, draw: Draw) -> tuple[str, ImageRecord]:
        split, record = super().image(group, division, draw)
        stored = stored_image(self._folder, group, record.file_name, self._source.follow_links)
        try:
            data = self._images.read(stored)
        except OSError as error:
            raise DataError(f"{stored.path}: cannot be read ({error})", "missing image") from error
        width, height = image_size(data, f"image {record.file_name!r}")
        objects: dict[str, int] = {}
        instances: list[Instance] = []
        expressions: list[Expression] = []
        for where, values in group.rows:
            key = json.dumps([values["box"], values["mask"]])
            if key not in objects:
                objects[key] = len(instances)
                image = ImageEntry(record.image_id, record.file_name, width, height, where)
                instances.append(_instance(values, image, record.task))
            expressions += [Expression(objects[key], text) for text in values["captions"]]
        return split, replace(
            record,
            width=width,
            height=height,
            captions=tuple(dict.fromkeys(record.captions)),
            instances=tuple(instances),
            expressions=tuple(expressions),
        )


def _instance(values: Mapping[str, Any], image: ImageEntry, task: str) -> Instance:
    left, top, width, height = values["box"]
    box = checked_box((left, top, width, height), image, f"{image.where}: the box (as xywh)")
    mask = read_mask(Entry({"segmentation": values["mask"]}, image.where), box, image)
    return Instance(box, task, task, mask)


def _numbers(value: object) -> tuple[float, float, float, float] | None:
    """Return four finite numbers of a list, or of a text that lists them, else None."""
    if isinstance(value, str):
        value = [part for part in _SEPARATORS.split(value) if part]
    if not isinstance(value, Sequence) or len(value) != 4:
        return None
    numbers = []
    for part in value:
        if isinstance(part, bool) or not isinstance(part, (int, float, str)):
            return None
        try:
            numbers.append(float(part))
        except (ValueError, OverflowError):
            return None
    if not all(map(math.isfinite, numbers)):
        return None
    left, top, third, fourth = numbers
    return left, top, third, fourth


def _outline(value: object, where: str) -> object:
    """Return an outline as MSCOCO writes it: one polygon alone is a list of polygons."""
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value)
        except ValueError as error:
            raise DataError(f"{where}: the mask is not JSON ({error})", "segmentation") from error
    if isinstance(value, list) and value and not any(isinstance(item, list) for item in value):
        return [value]
    return value

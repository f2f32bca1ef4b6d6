"""Rows of a table brought together by image, and images into splits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from system.data.formats.folder_rows import (
    FolderRows,
    FolderSource,
    broken_values,
    row_values,
    split_of_broken,
)
from system.data.formats.folder_splits import SPLITS, Division, Draw, Survey
from system.data.formats.image_groups import ImageGroup, ImageGroups
from system.data.formats.parquet_images import TableImage
from system.data.formats.tables.layout import UNKNOWN_SPLIT, Row
from system.data.prepare.image_files import ImageReader, StoredImage, safe_image_path
from system.data.prepare.split_index import SplitIndex, SplitIndexBuilder
from system.data.shards.faults import Faults
from system.data.shards.schema import ImageRecord
from system.errors import DataError


class TablePart(Protocol):
    """One file of a table, or what is like one."""

    def rows(self, columns: Sequence[str], faults: Faults) -> Iterator[Row]:
        """Go through the rows; one that cannot be read is a broken row."""
        ...


def collect_rows(
    parts: Iterable[tuple[str | None, TablePart]],
    columns: Sequence[str],
    reader: FolderRows,
    groups: ImageGroups,
    faults: Faults,
) -> Survey:
    """Check all rows and bring them together by image; `parts` come with the split of their rows.

    A broken row breaks its image, so it is kept with its fault until the image's turn comes.
    """
    survey = Survey()
    for split, part in parts:
        for where, values in part.rows(columns, faults):
            with faults.row(split or UNKNOWN_SPLIT, where):
                name = reader.image_name(values, where)
                try:
                    row = reader.row(values, where)
                except DataError as error:
                    groups.add(name.key, where, broken_values(name, error, split))
                    continue
                groups.add(name.key, where, row_values(name, row, split))
                survey.add(name.name, row.task)
    return survey


class Placing:
    """Places images in splits, a second time if a draw leaves a split without a task's image."""

    def __init__(
        self,
        source: FolderSource,
        folder: Path,
        reader: FolderRows,
        division: Division,
        images: ImageReader,
    ) -> None:
        self._source, self._folder, self._reader = source, folder, reader
        self._division, self._images = division, images
        self._draw = Draw(source.shares)
        self.tasks = source.tasks or division.tasks

    def splits(self, groups: ImageGroups, faults: Faults) -> Mapping[str, SplitIndex]:
        """Place all images. Raises: DataError, also for a task too small to be drawn."""
        found = len(faults.found)
        splits = self._place(groups, faults)
        if self._division.split_by == "draw" and any(len(index) for index in splits.values()):
            counts = {split: index.counts for split, index in splits.items()}
            if self._draw.mend(counts, self.tasks):
                del faults.found[found:]  # they are found again
                splits = self._place(groups, faults)
        return splits

    def _place(self, groups: ImageGroups, faults: Faults) -> dict[str, SplitIndex]:
        builders = {
            split: SplitIndexBuilder(split, self.tasks, faults, self._images) for split in SPLITS
        }
        groups.forget_ids()
        for group in groups:
            found: list[tuple[str, ImageRecord]] = []
            name = group.rows[0][1]["name"]
            with faults.row(split_of_broken(group, self._division, self._draw), name):
                found.append(self._reader.image(group, self._division, self._draw))
            for split, record in found:  # none, if it was broken
                where, values = group.rows[0]
                owner = f"{name}\0{values['image'] and values['image']['digest']}"
                if self._reader.has_ids and not groups.claim_id(split, record.image_id, owner):
                    raise DataError(
                        f"{where}: image id {record.image_id} is that of another image of split "
                        f"{split!r} too: correct the column, or number images instead with "
                        "benchmark.options.columns.image_id=null"
                    )
                if record.task not in self.tasks:
                    builders[split].skip("other_task")
                    continue
                broken = len(faults.found)
                with faults.row(split, record.file_name):
                    links = self._source.follow_links
                    stored = stored_image(self._folder, group, record.file_name, links)
                    builders[split].add(stored, record)
                if len(faults.found) == broken:
                    self._draw.note(record.task, record.file_name)
        return {split: builder.build() for split, builder in builders.items()}


def stored_image(folder: Path, group: ImageGroup, name: str, follow_links: bool) -> StoredImage:
    """Find an image's bytes: in its table, or the file of this name in the folder.

    Raises: DataError for a file that is not there or outside of the folder.
    """
    where, values = group.rows[0]
    if values["image"] is not None:
        return TableImage(**values["image"]).stored
    return StoredImage(safe_image_path(folder, name, where, follow_links=follow_links))

"""Reader of a user's own data: images and a table of their captions, no code needed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from system.data.formats.captions_file import CaptionsFile
from system.data.formats.folder_rows import (
    FolderRows,
    FolderSource,
    broken_values,
    row_values,
    split_of_broken,
)
from system.data.formats.folder_splits import SPLITS, Division, Draw, Survey, split_of_file
from system.data.formats.image_groups import ImageGroup, ImageGroups
from system.data.formats.parquet_images import ParquetImages, TableImage
from system.data.formats.tables.layout import UNKNOWN_SPLIT
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root
from system.data.prepare.image_files import FILES, ImageReader, StoredImage, safe_image_path
from system.data.prepare.needed_files import NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, preparer
from system.data.prepare.split_index import SplitIndex, SplitIndexBuilder
from system.data.shards.faults import Faults
from system.data.shards.schema import ImageRecord
from system.errors import DataError


def read_folder(source: FolderSource, faults: Faults, progress: Progress | None) -> CheckedDataset:
    """Read and check a folder of captioned images.

    Raises: ConfigError, DataError naming file, row and column, StorageError.
    """
    root = dataset_root(source.root)
    folder = dataset_folder(root, source.images, "images")
    file = CaptionsFile(root / source.captions, "benchmark.options.captions", source.layout)
    columns = source.columns.found_in(file)
    embedded = columns.file_name in file.images
    reader = FolderRows(source, columns, folder, embedded=embedded)
    with ImageGroups() as groups:
        survey = _collect(file, columns.names, reader, groups, faults)
        division = survey.divide(
            columns,
            [part.path for part in file.files],
            source.split_by,
            source.task_by,
            source.task_name,
        )
        images: ImageReader = ParquetImages(columns.file_name) if embedded else FILES
        placing = _Placing(source, folder, reader, division, images)
        splits = placing.splits(groups, faults)
    used = {split: index for split, index in splits.items() if len(index)}
    if not used:
        raise DataError(f"{file.path}: holds no row that can be used")
    drawn = division.split_by == "draw"
    return CheckedDataset(
        used,
        placing.tasks,
        {
            "format": "folder",
            "root": str(root),
            "captions": source.captions,
            "columns": asdict(columns),
            "split_by": division.split_by,
            "task_by": division.task_by,
            "shares": asdict(source.shares) if drawn else None,
            "caption_rule": source.caption_rule,
        },
        orient=True,
        drawn=used if drawn else (),
    )


def _collect(
    file: CaptionsFile,
    columns: Sequence[str],
    reader: FolderRows,
    groups: ImageGroups,
    faults: Faults,
) -> Survey:
    """Check all rows and bring them together by image.

    A broken row breaks its image, so it is kept with its fault until the image's turn comes.
    """
    survey = Survey()
    for part in file.files:
        split = split_of_file(part.path)
        for where, values in part.rows(columns, faults):
            with faults.row(UNKNOWN_SPLIT, where):
                name = reader.image_name(values, where)
                try:
                    row = reader.row(values, where)
                except DataError as error:
                    groups.add(name.key, where, broken_values(name, error, split))
                    continue
                groups.add(name.key, where, row_values(name, row, split))
                survey.add(name.name, row.task)
    return survey


class _Placing:
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
        ids: set[tuple[str, str]] = set()
        for group in groups:
            found: list[tuple[str, ImageRecord]] = []
            name = group.rows[0][1]["name"]
            with faults.row(split_of_broken(group, self._division, self._draw), name):
                found.append(self._reader.image(group, self._division, self._draw))
            for split, record in found:  # none, if it was broken
                where = group.rows[0][0]
                if (split, record.image_id) in ids:
                    raise DataError(
                        f"{where}: image id {record.image_id} is that of another image of split "
                        f"{split!r} too: correct the column, or number images instead with "
                        "benchmark.options.columns.image_id=null"
                    )
                ids.add((split, record.image_id))
                if record.task not in self.tasks:
                    builders[split].skip("other_task")
                    continue
                broken = len(faults.found)
                with faults.row(split, record.file_name):
                    builders[split].add(self._stored(group, record.file_name), record)
                if len(faults.found) == broken:
                    self._draw.note(record.task, record.file_name)
        return {split: builder.build() for split, builder in builders.items()}

    def _stored(self, group: ImageGroup, name: str) -> StoredImage:
        where, values = group.rows[0]
        if values["image"] is not None:
            return TableImage(**values["image"]).stored
        links = self._source.follow_links
        return StoredImage(safe_image_path(self._folder, name, where, follow_links=links))


def folder_files(source: FolderSource) -> list[NeededFile]:
    """List the files that the options name."""
    return [
        NeededFile("captions", source.captions),
        NeededFile("images", source.images, images=True),
    ]


DATASET = preparer(FolderSource, read_folder)
NEEDED = needs(FolderSource, folder_files)

"""Reader of a user's own data: images and a table of their captions, no code needed."""

import os
from dataclasses import asdict
from pathlib import Path

from system.data.formats.captions_file import CaptionsFile, table_files
from system.data.formats.folder_rows import (
    FolderRows,
    FolderSource,
)
from system.data.formats.folder_splits import split_of_file
from system.data.formats.image_groups import ImageGroups
from system.data.formats.parquet_images import ParquetImages
from system.data.formats.placing import Placing, collect_rows
from system.data.formats.tables.layout import CSV_EXAMPLE
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root
from system.data.prepare.image_files import FILES, ImageReader
from system.data.prepare.needed_files import NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, preparer
from system.data.shards.faults import Faults
from system.errors import DataError
from system.uris import absolute


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
        parts = [(split_of_file(part.path), part) for part in file.files]
        survey = collect_rows(parts, columns.names, reader, groups, faults)
        division = survey.divide(
            columns,
            [part.path for part in file.files],
            source.split_by,
            source.task_by,
            source.task_name,
        )
        images: ImageReader = ParquetImages(columns.file_name) if embedded else FILES
        placing = Placing(source, folder, reader, division, images)
        splits = placing.splits(groups, faults)
    used = {split: index for split, index in splits.items() if len(index)}
    if not used:
        raise DataError(f"{file.path}: holds no row that can be used. {CSV_EXAMPLE}")
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


def folder_files(source: FolderSource) -> list[NeededFile]:
    """List the files that the options name."""
    root = Path(absolute(source.root)) if source.root else Path("root-is-not-set")
    several = tuple(os.path.relpath(path, root) for path in table_files(root / source.captions))
    return [
        NeededFile("captions", source.captions, parts=several if len(several) > 1 else ()),
        NeededFile("images", source.images, images=True),
    ]


DATASET = preparer(FolderSource, read_folder)
NEEDED = needs(FolderSource, folder_files)

"""Reader of a user's own referring expressions: images, and a table of texts and boxes."""

from dataclasses import asdict

from system.data.formats.captions_file import CaptionsFile
from system.data.formats.expressions.referring_rows import (
    ReferringRows,
    ReferringSource,
    ReferringTable,
)
from system.data.formats.folder_splits import split_of_file
from system.data.formats.image_groups import ImageGroups
from system.data.formats.parquet_images import ParquetImages
from system.data.formats.placing import Placing, collect_rows
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root
from system.data.prepare.image_files import FILES, ImageReader
from system.data.prepare.needed_files import NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, preparer
from system.data.shards.faults import Faults
from system.errors import DataError


def read_referring(
    source: ReferringSource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check images with referring expressions.

    Raises: ConfigError, DataError naming file, row and column, StorageError.
    """
    root = dataset_root(source.root)
    folder = dataset_folder(root, source.images, "images")
    shared = source.folder
    file = CaptionsFile(root / source.expressions, "benchmark.options.expressions", shared.layout)
    table = ReferringTable.found_in(file, source)
    embedded = table.columns.file_name in file.images
    images: ImageReader = ParquetImages(table.columns.file_name) if embedded else FILES
    reader = ReferringRows(source, table, folder, images, embedded=embedded)
    with ImageGroups() as groups:
        parts = [(split_of_file(part.path), part) for part in file.files]
        survey = collect_rows(parts, table.names, reader, groups, faults)
        paths = [part.path for part in file.files]
        division = survey.divide(
            table.columns, paths, source.split_by, source.task_by, source.task_name
        )
        placing = Placing(shared, folder, reader, division, images)
        splits = placing.splits(groups, faults)
    used = {split: index for split, index in splits.items() if len(index)}
    if not used:
        raise DataError(f"{file.path}: holds no row that can be used")
    drawn = division.split_by == "draw"
    return CheckedDataset(
        used,
        placing.tasks,
        {
            "format": "referring",
            "root": str(root),
            "expressions": source.expressions,
            "columns": {**asdict(table.columns), "box": list(table.box), "mask": table.mask},
            "box_format": table.box_format,
            "split_by": division.split_by,
            "task_by": division.task_by,
            "shares": asdict(source.shares) if drawn else None,
            "caption_rule": source.caption_rule,
        },
        drawn=used if drawn else (),
    )


def referring_files(source: ReferringSource) -> list[NeededFile]:
    """List the files that the options name."""
    return [
        NeededFile("expressions", source.expressions),
        NeededFile("images", source.images, images=True),
    ]


DATASET = preparer(ReferringSource, read_referring)
NEEDED = needs(ReferringSource, referring_files)

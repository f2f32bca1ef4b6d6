"""Reader of a user's own data: a folder of images and a captions file, no code needed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from system.data.formats.captions_file import UNKNOWN_SPLIT, CaptionsFile
from system.data.formats.folder_rows import SPLITS, Columns, FolderRows, FolderSource
from system.data.formats.image_groups import ImageGroups
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root
from system.data.prepare.image_files import StoredImage, safe_image_path
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
    file = CaptionsFile(root / source.captions, "benchmark.options.captions")
    columns = source.columns.found_in(file)
    reader = FolderRows(source, columns)
    with ImageGroups() as groups:
        found = _collect(file, columns, reader, groups, faults)
        tasks = source.tasks or found
        splits = _index_splits(reader, groups, folder, tasks, faults, source.follow_links)
    splits = _checked_splits(splits, source, columns, tasks, file)
    return CheckedDataset(
        splits,
        tasks,
        {
            "format": "folder",
            "root": str(root),
            "captions": source.captions,
            "columns": asdict(columns),
            "shares": asdict(source.shares) if columns.split is None else None,
            "caption_rule": source.caption_rule,
        },
        orient=True,
        drawn=splits if columns.split is None else (),
    )


def _collect(
    file: CaptionsFile, columns: Columns, reader: FolderRows, groups: ImageGroups, faults: Faults
) -> tuple[str, ...]:
    """Check all rows and bring them together by image. Returns: tasks as they first appear.

    A broken row breaks its image, so it is kept with its fault until the image's turn comes.
    """
    tasks: dict[str, None] = {}
    for where, values in file.rows(columns.names, faults):
        with faults.row(UNKNOWN_SPLIT, where):
            name = reader.file_name(values, where)
            try:
                row = reader.row(name, values, where)
            except DataError as error:
                groups.add(name, where, {"fault": str(error), "kind": error.kind})
                continue
            groups.add(name, where, asdict(row))
            if row.task is not None:
                tasks[row.task] = None
    return tuple(tasks)


def _index_splits(
    reader: FolderRows,
    groups: ImageGroups,
    folder: Path,
    tasks: Sequence[str],
    faults: Faults,
    follow_links: bool,
) -> dict[str, SplitIndex]:
    builders = {split: SplitIndexBuilder(split, tasks, faults) for split in SPLITS}
    ids: set[tuple[str, str]] = set()
    for group in groups:
        images: list[tuple[str, ImageRecord]] = []
        with faults.row(reader.split_of(group), group.file_name):
            images.append(reader.image(group))
        for split, record in images:  # none, if it was broken
            where = group.rows[0][0]
            if (split, record.image_id) in ids:
                raise DataError(f"{where}: image id {record.image_id} is that of another image too")
            ids.add((split, record.image_id))
            if record.task not in tasks:
                builders[split].skip("other_task")
                continue
            with faults.row(split, group.file_name):
                path = safe_image_path(folder, group.file_name, where, follow_links=follow_links)
                builders[split].add(StoredImage(path), record)
    return {split: builder.build() for split, builder in builders.items()}


def _checked_splits(
    splits: Mapping[str, SplitIndex],
    source: FolderSource,
    columns: Columns,
    tasks: Sequence[str],
    file: CaptionsFile,
) -> dict[str, SplitIndex]:
    """Leave out splits that are not meant to be there, and check drawn ones for empty tasks."""
    used = {split: index for split, index in splits.items() if len(index)}
    if not used:
        raise DataError(f"{file.path}: holds no row that can be used")
    if columns.split is not None:
        return used
    drawn = [split for split in SPLITS if split == "train" or getattr(source.shares, split) > 0]
    for split in drawn:
        empty = [task for task in tasks if not splits[split].counts[task]]
        if empty:
            raise DataError(
                f"{file.path}: no image of task {', '.join(map(repr, empty))} was drawn for split "
                f"{split!r}: raise benchmark.options.shares, change its seed, give more images or "
                "add a split column"
            )
    return {split: splits[split] for split in drawn}


def folder_files(source: FolderSource) -> list[NeededFile]:
    """List the files that the options name."""
    return [
        NeededFile("captions", source.captions),
        NeededFile("images", source.images, images=True),
    ]


DATASET = preparer(FolderSource, read_folder)
NEEDED = needs(FolderSource, folder_files)

"""Writing of task shards: Parquet files per task and split, in one pass and flat memory."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pyarrow import fs

from system.data.images import check_image
from system.data.manifest import (
    Manifest,
    Shard,
    TaskEntry,
    read_json,
    shard_from_json,
    shard_to_json,
    write_json,
)
from system.data.parallel import bounded_map
from system.data.schema import SCHEMA_VERSION, ImageRecord
from system.data.shard_files import TaskShardWriter
from system.errors import ConfigError, DataError
from system.storage.locations import absolute, filesystem_of, join, relative, storage_errors

ROW_GROUP_ROWS = 64  # about 10 MB of MSCOCO photographs: what a worker holds of one stream
SHARD_ROWS = 2048  # about 350 MB of them: what one object store request or copy moves

# split, images written so far, images of the split
Progress = Callable[[str, int, int], None]

_SHARD_FOLDER = "shards"
_SPLIT_RECORD = "split.json"


class SplitSource(Protocol):
    """One split of a dataset as a reader offers it: everything known but the image bytes."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the records would."""

    def __len__(self) -> int:
        """Return the number of images."""

    def load(self, index: int) -> ImageRecord:
        """Read one image; called from several threads."""


def default_threads() -> int:
    """Threads for decoding when the user names no number: one a core, at most eight."""
    return min(8, os.cpu_count() or 1)


def write_shards(
    splits: Mapping[str, SplitSource],
    root: str,
    *,
    benchmark: str,
    tasks: Sequence[str],
    source: Mapping[str, object],
    row_group_rows: int = ROW_GROUP_ROWS,
    shard_rows: int = SHARD_ROWS,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write every split's records as task shards under `root` and, last, the manifest.

    `root` is a path or a pyarrow filesystem URI. Each image is decoded once, by `threads` threads,
    and must have its annotated size. At most `row_group_rows` images a task are in memory. A split
    that an earlier call finished from the same source is kept; a shard appears under its name only
    when it is whole; shards of an older manifest stay until the new one is in place.
    Raises: DataError for a broken image or a task without images in a split, ConfigError for sizes
    that cannot be, StorageError if the place cannot be written.
    """
    if row_group_rows < 1 or shard_rows < row_group_rows:
        raise ConfigError(
            f"row_group_rows: {row_group_rows} must be at least 1 and at most shard_rows "
            f"({shard_rows})"
        )
    slugs = _task_slugs(tasks)
    root = absolute(root)
    written: dict[str, dict[str, tuple[Shard, ...]]] = {}
    for split, records in splits.items():
        key = json.dumps(
            [SCHEMA_VERSION, records.fingerprint, list(tasks), row_group_rows, shard_rows]
        )
        folder = join(
            root, _SHARD_FOLDER, f"{split}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        )
        shards = _finished_split(folder, root, tasks)
        if shards is None:
            shards = _write_split(
                records,
                folder,
                split=split,
                slugs=slugs,
                row_group_rows=row_group_rows,
                shard_rows=shard_rows,
                threads=threads or default_threads(),
                progress=progress,
            )
            described = {
                task: [shard_to_json(shard, root) for shard in shards[task]] for task in tasks
            }
            write_json(join(folder, _SPLIT_RECORD), described)
        written[split] = shards
    manifest = Manifest(
        SCHEMA_VERSION,
        benchmark,
        dict(source),
        tuple(TaskEntry(task, {split: written[split][task] for split in splits}) for task in tasks),
    )
    manifest.save(root)
    _remove_superseded(root, manifest)
    return manifest


def _task_slugs(tasks: Sequence[str]) -> dict[str, str]:
    """Map task names to distinct names that are safe in any file system."""
    slugs = {task: re.sub(r"[^A-Za-z0-9_-]+", "_", task) for task in tasks}
    if not tasks or len(set(slugs.values())) != len(tasks) or not all(slugs.values()):
        raise ConfigError(
            f"benchmark.options.tasks: {list(tasks)}: at least one task is needed and "
            "their names must differ in letters or digits"
        )
    return slugs


def _finished_split(
    folder: str, root: str, tasks: Sequence[str]
) -> dict[str, tuple[Shard, ...]] | None:
    """Return the shards of a split that an earlier call finished, None if it must be written."""
    filesystem, path = filesystem_of(join(folder, _SPLIT_RECORD))
    with storage_errors(folder, "look for finished shards"):
        if filesystem.get_file_info(path).type != fs.FileType.File:
            return None
    try:
        described = read_json(join(folder, _SPLIT_RECORD))
        shards = {
            task: tuple(shard_from_json(entry, root) for entry in described[task]) for task in tasks
        }
        for shard in (shard for of_task in shards.values() for shard in of_task):
            shard.verify()
    except (DataError, KeyError, TypeError):
        return None
    return shards


def _write_split(
    records: SplitSource,
    folder: str,
    *,
    split: str,
    slugs: Mapping[str, str],
    row_group_rows: int,
    shard_rows: int,
    threads: int,
    progress: Progress | None,
) -> dict[str, tuple[Shard, ...]]:
    filesystem, path = filesystem_of(folder)
    with storage_errors(folder, "start the split's folder"):
        filesystem.create_dir(path, recursive=True)
        filesystem.delete_dir_contents(path)  # what an interrupted call left

    def load_checked(index: int) -> ImageRecord:
        record = records.load(index)
        name = f"image {record.file_name!r} of split {split!r}"
        check_image(record.image, name, record.width, record.height)
        return record

    writers = {
        task: TaskShardWriter(folder, slug, row_group_rows, shard_rows)
        for task, slug in slugs.items()
    }
    total = len(records)
    try:
        for done, record in enumerate(bounded_map(load_checked, range(total), threads=threads), 1):
            writers[record.task].append(record)
            if progress is not None:
                progress(split, done, total)
        shards = {task: writer.close() for task, writer in writers.items()}
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    for task, of_task in shards.items():
        if not of_task:
            raise DataError(
                f"task {task!r} has no image in split {split!r}: take it out of "
                "benchmark.options.tasks or complete the annotations"
            )
    return shards


def _remove_superseded(root: str, manifest: Manifest) -> None:
    """Delete folders of splits that were written before from another source or other settings."""
    kept = {
        relative(shard.uri, root).split("/")[1]
        for task in manifest.tasks
        for shards in task.splits.values()
        for shard in shards
    }
    filesystem, path = filesystem_of(join(root, _SHARD_FOLDER))
    with storage_errors(root, "remove superseded shards"):
        for info in filesystem.get_file_info(fs.FileSelector(path)):
            if info.type == fs.FileType.Directory and info.base_name not in kept:
                filesystem.delete_dir(info.path)

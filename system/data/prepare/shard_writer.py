"""Writing of task shards: Parquet files per task and split, in one pass and flat memory."""

import hashlib
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from pyarrow import fs

from system.config.overrides import override
from system.data.prepare.dataset import Progress
from system.data.prepare.split_writer import SplitSource, write_split
from system.data.shards.faults import Faults, summarise
from system.data.shards.images import PLAIN, Decoding
from system.data.shards.manifest import Manifest, Shard, TaskEntry
from system.data.shards.schema import PLAIN_VERSION, SCHEMA_VERSION
from system.errors import ConfigError, DataError
from system.storage.data_directory import SETTING
from system.storage.files import filesystem_of, storage_errors
from system.uris import absolute, join, relative

ROW_GROUP_ROWS = 64  # about 10 MB of MSCOCO photographs: what a worker holds per stream
SHARD_ROWS = 2048  # about 350 MB of them: what one object store request or copy moves

_SHARD_FOLDER = "shards"
_SLUG_LENGTH = 80


def default_threads() -> int:
    """Threads for decoding when the user names no number: one per core, at most eight."""
    return min(8, os.cpu_count() or 1)


def write_shards(
    splits: Mapping[str, SplitSource],
    root: str,
    *,
    benchmark: str,
    tasks: Sequence[str],
    source: Mapping[str, object],
    faults: Faults,
    decoding: Decoding = PLAIN,
    row_group_rows: int = ROW_GROUP_ROWS,
    shard_rows: int = SHARD_ROWS,
    threads: int | None = None,
    progress: Progress | None = None,
    spanned: Collection[str] = (),
    sparse: bool = False,
) -> Manifest:
    """Write every split's records as task shards under `root` and, last, the manifest.

    `root` is a path or a pyarrow filesystem URI. Each image is decoded once, by `threads` threads,
    and must have its annotated size. At most `row_group_rows` images are in memory. Whole shards
    that an earlier call wrote from the same source are kept; a shard appears under its name only
    when it is whole; shards of an older manifest stay until the new one is in place. Those of the
    splits in `spanned` have the columns of expressions with spans or others. The manifest's
    `source` is `source`, the digest of each split's rows as read in "content", in "quarantined" the
    broken rows by kind, in "decoding" how images become RGB, and in "unoriented" how many of each
    split have an orientation tag that is not applied.
    Raises: DataError for a task without images in a split, unless the data are `sparse`, and, as
    `faults` says, for a broken image; ConfigError for sizes that cannot be; StorageError if the
    place cannot be written.
    """
    if row_group_rows < 1 or shard_rows < row_group_rows:
        raise ConfigError(
            f"row_group_rows: {row_group_rows} must be at least 1 and at most shard_rows "
            f"({shard_rows})"
        )
    slugs = _task_slugs(tasks)
    root = absolute(root)
    written: dict[str, dict[str, list[Shard]]] = {}
    unoriented: dict[str, int] = {}
    contents: dict[str, str] = {}
    for split, records in splits.items():
        settings = [list(tasks), faults.on_error, row_group_rows, shard_rows, decoding.to_json()]
        version = SCHEMA_VERSION if split in spanned else PLAIN_VERSION
        key = json.dumps([version, records.fingerprint, *settings])
        folder = join(
            root, _SHARD_FOLDER, f"{split}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        )
        record = write_split(
            records,
            folder,
            root,
            split=split,
            tasks=slugs,
            decoding=decoding,
            faults=faults,
            spanned=split in spanned,
            row_group_rows=row_group_rows,
            shard_rows=shard_rows,
            threads=threads or default_threads(),
            progress=None if progress is None else partial(progress, split),
        )
        contents[split] = f"{record.content:064x}"
        written[split] = record.shards
        if record.unoriented:
            unoriented[split] = record.unoriented
    check_tasks(
        {
            split: {task: sum(shard.rows for shard in of) for task, of in shards.items()}
            for split, shards in written.items()
        },
        tasks,
        sparse=sparse,
    )
    manifest = Manifest(
        SCHEMA_VERSION if spanned else PLAIN_VERSION,
        benchmark,
        {
            **source,
            "content": contents,
            "quarantined": summarise(faults.found),
            "decoding": decoding.to_json(),
            "unoriented": unoriented,
        },
        tuple(
            TaskEntry(task, {split: tuple(written[split][task]) for split in splits})
            for task in tasks
        ),
    )
    manifest.save(root)
    _remove_superseded(root, manifest)
    return manifest


def check_tasks(
    splits: Mapping[str, Mapping[str, int]], tasks: Sequence[str], *, sparse: bool = False
) -> None:
    """Check that each task has a row in each split; `splits` is {split: {task: rows}}.

    In a `sparse` data set each split needs rows of one task alone.
    Raises: DataError naming all splits and tasks without one, and the tasks that would do.
    """
    missing = {
        split: [task for task in tasks if not counts.get(task)] for split, counts in splits.items()
    }
    if sparse:
        missing = {split: of for split, of in missing.items() if len(of) == len(tasks)}
    lacking = [
        f"split {split!r} has no image of "
        + (f"task {', '.join(map(repr, of))}" if len(of) < len(tasks) else "any task")
        for split, of in missing.items()
        if of
    ]
    if not lacking:
        return
    empty = [split for split, of in missing.items() if len(of) == len(tasks)]
    complete = [
        task
        for task in tasks
        if all(task not in of for split, of in missing.items() if split not in empty)
    ]
    ways = []
    if empty:
        ways.append(f"take {', '.join(map(repr, empty))} out of benchmark.options.splits")
    if complete and len(complete) < len(tasks):
        ways.append(f"set {shlex.quote(override('benchmark.options.tasks', complete))}")
    raise DataError(
        f"{'; '.join(lacking)}: {' and '.join(ways)}{' or ' if ways else ''}complete the "
        "annotations"
    )


def _task_slugs(tasks: Sequence[str]) -> dict[str, str]:
    """Map task names to names that are safe, and distinct, in any file system."""
    if not tasks or len(set(tasks)) != len(tasks) or not all(tasks):
        raise ConfigError(
            f"benchmark.options.tasks: {list(tasks)}: at least one task is needed, and each once "
            "by a name"
        )
    lower = Counter(task.lower() for task in tasks)  # some systems do not tell cases apart
    return {task: _slug(task, unique=lower[task.lower()] == 1) for task in tasks}


def _slug(task: str, *, unique: bool) -> str:
    """Keep a plain name as it is; of others, what is plain and a hash."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", task)[:_SLUG_LENGTH]
    if plain == task and unique:
        return plain
    digest = hashlib.sha256(task.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{plain}-{digest[:8]}"


def _remove_superseded(root: str, manifest: Manifest) -> None:
    """Delete folders of splits that were written before from another source or other settings."""
    kept = {
        relative(shard.uri, root).split("/")[1]
        for task in manifest.tasks
        for shards in task.splits.values()
        for shard in shards
    }
    filesystem, path = filesystem_of(join(root, _SHARD_FOLDER))
    with storage_errors(root, "remove superseded shards", SETTING):
        for info in filesystem.get_file_info(fs.FileSelector(path)):
            if info.type == fs.FileType.Directory and info.base_name not in kept:
                filesystem.delete_dir(info.path)

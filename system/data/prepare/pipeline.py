"""From a data set's checked splits to task shards, with the checks that need all splits at once."""

from collections.abc import Iterable, Mapping, Sequence

from system.data.prepare.shard_writer import ROW_GROUP_ROWS, SHARD_ROWS, Progress, write_shards
from system.data.prepare.split_index import SplitIndex
from system.data.prepare.temporary_files import temporary_database, temporary_space
from system.data.shards.faults import Faults, write_quarantine
from system.data.shards.manifest import Manifest
from system.errors import DataError

# image id, file name and task of each row
Listing = Iterable[tuple[int, str, str]]

_SAME_IMAGE = """
SELECT a.image_id, a.file_name, a.split, b.split FROM rows a JOIN rows b
ON a.{key} = b.{key} WHERE a.rowid > b.rowid AND a.split != b.split ORDER BY a.rowid LIMIT 1
"""


def check_disjoint(splits: Mapping[str, Listing]) -> None:
    """Check that no image is in two splits, by id and by file name.

    Raises: DataError naming the image and both splits.
    """
    with temporary_database() as database, temporary_space():
        database.execute("CREATE TABLE rows (image_id INTEGER, file_name TEXT, split TEXT)")
        for split, listing in splits.items():
            database.executemany(
                "INSERT INTO rows VALUES (?, ?, ?)",
                ((image_id, file_name, split) for image_id, file_name, _ in listing),
            )
        for key, shown in (("image_id", "id"), ("file_name", "file name")):
            database.execute(f"CREATE INDEX {key}s ON rows ({key})")
            found = database.execute(_SAME_IMAGE.format(key=key)).fetchone()
            if found is not None:
                image_id, file_name, split, other = found
                raise DataError(
                    f"image {file_name!r} (id {image_id}) is in split {split!r} and shares its "
                    f"{shown} with one of split {other!r}: correct benchmark.options.splits or the "
                    "annotations"
                )


def check_tasks(splits: Mapping[str, Mapping[str, int]], tasks: Sequence[str]) -> None:
    """Check that each task has a row in each split; `splits` is {split: {task: rows}}.

    Raises: DataError naming split and tasks.
    """
    for split, counts in splits.items():
        missing = [task for task in tasks if not counts.get(task)]
        if missing:
            raise DataError(
                f"split {split!r} has no image of task {', '.join(map(repr, missing))}: take it "
                "out of benchmark.options.tasks or complete the annotations"
            )


def prepare_splits(
    splits: Mapping[str, SplitIndex],
    output: str,
    *,
    benchmark: str,
    tasks: Sequence[str],
    source: Mapping[str, object],
    faults: Faults,
    progress: Progress | None,
    row_group_rows: int = ROW_GROUP_ROWS,
    shard_rows: int = SHARD_ROWS,
) -> Manifest:
    """Turn checked splits into task shards under `output` (path or URI).

    Images that do not decode or have another size than annotated are broken rows, as `faults` says.
    All broken rows are written to `quarantine.parquet` under `output`. The manifest's `source` is
    `source` and what was left out: by split in "skipped", by kind of fault in "quarantined".
    Raises: DataError for an image in two splits, a task without rows or, under "stop", a broken
    row; ConfigError, StorageError.
    """
    check_disjoint({split: index.images for split, index in splits.items()})
    check_tasks({split: index.counts for split, index in splits.items()}, tasks)
    skipped = {split: index.skipped for split, index in splits.items()}
    manifest = write_shards(
        splits,
        output,
        benchmark=benchmark,
        tasks=tasks,
        source={**source, "skipped": skipped},
        faults=faults,
        row_group_rows=row_group_rows,
        shard_rows=shard_rows,
        progress=progress,
    )
    write_quarantine(output, faults.found)
    return manifest

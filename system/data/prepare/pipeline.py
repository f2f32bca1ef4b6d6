"""Preparing a benchmark: from its options through checked splits to task shards."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from system.config.parse import parse_dataclass
from system.data.prepare.captions import clean_caption
from system.data.prepare.dataset import Preparer, Progress
from system.data.prepare.shard_writer import (
    ROW_GROUP_ROWS,
    SHARD_ROWS,
    check_tasks,
    default_threads,
    write_shards,
)
from system.data.prepare.split_index import SplitIndex
from system.data.prepare.temporary_files import temporary_database, temporary_space
from system.data.shards.faults import Faults, write_quarantine
from system.data.shards.manifest import Manifest
from system.data.shards.parallel import bounded_map
from system.errors import DataError, OnError

_SAME_SIZE = """
SELECT split, number FROM rows
WHERE size IN (SELECT size FROM rows GROUP BY size HAVING count(DISTINCT split) > 1)
ORDER BY split, number
"""
_SAME_IMAGE = """
SELECT a.split, a.number, b.split, b.number FROM digests a JOIN digests b ON a.digest = b.digest
WHERE a.split != b.split AND a.rowid > b.rowid ORDER BY a.rowid LIMIT 1
"""


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """Options of every reader.

    `root` is the dataset's folder, `caption_rule` how captions are cleaned, `on_error` what broken
    rows do; with `follow_links` an image may be a symbolic link to a file outside of `root`, as in
    the cache of the Hugging Face Hub.
    """

    root: str
    caption_rule: str = "none"
    on_error: OnError = "stop"
    follow_links: bool = False

    def __post_init__(self) -> None:
        clean_caption("", self.caption_rule)  # refuses an unknown rule before any file is read


@dataclass(frozen=True)
class CheckedDataset:
    """A dataset whose annotations are read and checked; its images are not read yet.

    `tasks` are in stream order; `source` describes the dataset in the manifest.
    """

    splits: Mapping[str, SplitIndex]
    tasks: Sequence[str]
    source: Mapping[str, object]


Options = TypeVar("Options", bound=ReaderOptions)
Reader = Callable[[Options, Faults, Progress | None], CheckedDataset]


def preparer(options_class: type[Options], read: Reader[Options]) -> Preparer:
    """Make a dataset's entry in the registry from its options and its reader."""

    def prepare(
        benchmark: str, output: str, options: Mapping[str, Any], progress: Progress | None
    ) -> Manifest:
        source = parse_dataclass(options_class, options, "benchmark.options")
        faults = Faults(source.on_error)
        dataset = read(source, faults, progress)
        return write_dataset(dataset, output, benchmark=benchmark, faults=faults, progress=progress)

    return prepare


def write_dataset(
    dataset: CheckedDataset,
    output: str,
    *,
    benchmark: str,
    faults: Faults,
    progress: Progress | None,
    row_group_rows: int = ROW_GROUP_ROWS,
    shard_rows: int = SHARD_ROWS,
) -> Manifest:
    """Turn checked splits into task shards under `output` (path or URI).

    Images that do not decode or have another size than annotated are broken rows, as `faults` says.
    All broken rows are written to `quarantine.parquet` under `output`. The manifest's `source` is
    the dataset's and what was left out: by split in "skipped", by kind of fault in "quarantined".
    Raises: DataError for an image in two splits, a task without rows or, under "stop", a broken
    row; ConfigError, StorageError.
    """
    check_tasks({split: index.counts for split, index in dataset.splits.items()}, dataset.tasks)
    check_disjoint(dataset.splits)
    skipped = {split: index.skipped for split, index in dataset.splits.items()}
    manifest = write_shards(
        dataset.splits,
        output,
        benchmark=benchmark,
        tasks=dataset.tasks,
        source={**dataset.source, "skipped": skipped},
        faults=faults,
        row_group_rows=row_group_rows,
        shard_rows=shard_rows,
        progress=progress,
    )
    write_quarantine(output, faults.found)
    return manifest


def check_disjoint(splits: Mapping[str, SplitIndex]) -> None:
    """Check that no image is in two splits, by its bytes: ids may start again in each split.

    Only images of a size that another split has too are read.
    Raises: DataError naming the image and both splits.
    """
    indexes = list(splits.values())
    with temporary_database() as database, temporary_space():
        database.execute("CREATE TABLE rows (split INTEGER, number INTEGER, size INTEGER)")
        database.execute("CREATE TABLE digests (digest BLOB, split INTEGER, number INTEGER)")
        for place, index in enumerate(indexes):
            database.executemany(
                "INSERT INTO rows VALUES (?, ?, ?)",
                ((place, number, size) for number, size in enumerate(index.sizes())),
            )
        database.execute("CREATE INDEX sizes ON rows (size, split)")
        found = database.execute(_SAME_SIZE)

        def digest(row: tuple[int, int]) -> tuple[bytes, int, int]:
            place, number = row
            return hashlib.sha256(indexes[place].load(number).image).digest(), place, number

        database.executemany(
            "INSERT INTO digests VALUES (?, ?, ?)",
            bounded_map(digest, found, threads=default_threads()),
        )
        database.execute("CREATE INDEX by_digest ON digests (digest, split)")
        same = database.execute(_SAME_IMAGE).fetchone()
    if same is not None:
        place, number, other_place, other_number = same
        index, other = indexes[place], indexes[other_place]
        raise DataError(
            f"image {index.name(number)!r} of split {index.split!r} is the same picture, byte "
            f"for byte, as image {other.name(other_number)!r} of split {other.split!r}, so what "
            "is tested would be trained on: take one of the two out of its split"
        )

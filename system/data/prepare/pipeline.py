"""Preparing a benchmark: from its options through checked splits to task shards."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from system.config.parse import parse_dataclass
from system.data.prepare.captions import clean_caption
from system.data.prepare.dataset import Preparer, Progress
from system.data.prepare.shard_writer import ROW_GROUP_ROWS, SHARD_ROWS, check_tasks, write_shards
from system.data.prepare.split_index import SplitIndex
from system.data.prepare.temporary_files import temporary_database, temporary_space
from system.data.shards.faults import Faults, write_quarantine
from system.data.shards.manifest import Manifest
from system.errors import DataError, OnError

# image id, file name and task of each row
Listing = Iterable[tuple[int, str, str]]

_SAME_IMAGE = """
SELECT a.image_id, a.file_name, a.split, b.split FROM rows a JOIN rows b
ON a.{key} = b.{key} WHERE a.rowid > b.rowid AND a.split != b.split ORDER BY a.rowid LIMIT 1
"""


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """Options of every reader: the dataset's folder, its caption rule, and what broken rows do."""

    root: str
    caption_rule: str = "none"
    on_error: OnError = "stop"

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
    check_disjoint({split: index.images for split, index in dataset.splits.items()})
    check_tasks({split: index.counts for split, index in dataset.splits.items()}, dataset.tasks)
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
        for key, name in (("image_id", "id"), ("file_name", "file name")):
            database.execute(f"CREATE INDEX {key}s ON rows ({key})")
            found = database.execute(_SAME_IMAGE.format(key=key)).fetchone()
            if found is not None:
                image_id, file_name, split, other = found
                raise DataError(
                    f"image {file_name!r} (id {image_id}) is in split {split!r} and shares its "
                    f"{name} with one of split {other!r}: correct benchmark.options.splits or the "
                    "annotations"
                )

"""Preparing a benchmark: from its options through checked splits to task shards."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from system.config.parse import parse_dataclass
from system.data.prepare.captions import clean_caption
from system.data.prepare.dataset import Dataset, Progress
from system.data.prepare.image_files import StoredImage
from system.data.prepare.moved_data import moved_data, refuse_other_origin
from system.data.prepare.origin import Origin
from system.data.prepare.shard_writer import (
    ROW_GROUP_ROWS,
    SHARD_ROWS,
    check_tasks,
    default_threads,
    write_shards,
)
from system.data.prepare.split_index import SplitIndex
from system.data.prepare.temporary_files import temporary_database, temporary_space
from system.data.shards.faults import Faults, put_aside, write_quarantine
from system.data.shards.images import PLAIN, Decoding, background_colour
from system.data.shards.manifest import Manifest
from system.data.shards.parallel import bounded_map
from system.errors import ConfigError, DataError, OnError, PromptideError, StorageError

_SAME_SIZE = """
SELECT rank, number, path, start, length FROM rows
WHERE size IN (SELECT size FROM rows GROUP BY size HAVING min(rank) < max(rank))
ORDER BY rank, number
"""
# Rows whose picture is also in a split of a lower rank, that rank, and the first row of it there.
_SAME_IMAGE = """
WITH kept AS (
    SELECT digest, min(rank) AS rank FROM digests WHERE digest IS NOT NULL
    GROUP BY digest HAVING min(rank) < max(rank)
)
SELECT a.rank, a.number, kept.rank,
    (SELECT min(b.number) FROM digests b WHERE b.digest = a.digest AND b.rank = kept.rank)
FROM digests a JOIN kept ON a.digest = kept.digest AND a.rank > kept.rank
ORDER BY a.rank, a.number
"""


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """Options of every reader.

    `root` is the dataset's folder, `caption_rule` how captions are cleaned, `on_error` what broken
    rows do; with `follow_links` an image may be a symbolic link to a file outside of `root`, as in
    the cache of the Hugging Face Hub.
    `background` is the colour that transparent pixels are composed over: a name, or #rrggbb.
    """

    root: str
    caption_rule: str = "none"
    on_error: OnError = "stop"
    follow_links: bool = False
    background: str = "white"

    def __post_init__(self) -> None:
        # An unknown rule or colour is refused before any file is read.
        clean_caption("", self.caption_rule)
        background_colour(self.background)
        splits = getattr(self, "splits", None)  # of most readers; null: they find their own
        if splits is not None and not splits:
            raise ConfigError("benchmark.options.splits: at least one split is needed")


@dataclass(frozen=True)
class CheckedDataset:
    """A dataset whose annotations are read and checked; its images are not read yet.

    `tasks` are in stream order; `source` describes the dataset in the manifest. `orient` says that
    images are turned as their orientation tags have it: for data sets without boxes and masks,
    whose coordinates are those of the image as it is stored. `drawn` are the splits that the reader
    divided one pool into: that two of them have the same picture is nobody's mistake. In a
    `sparse` data set a task may have no row in a split.
    """

    splits: Mapping[str, SplitIndex]
    tasks: Sequence[str]
    source: Mapping[str, object]
    orient: bool = False
    drawn: Collection[str] = ()
    sparse: bool = False


Options = TypeVar("Options", bound=ReaderOptions)
Reader = Callable[[Options, Faults, Progress | None], CheckedDataset]


def preparer(options_class: type[Options], read: Reader[Options]) -> Dataset:
    """Make a dataset's entry in the registry from its options and its reader."""

    name = read.__module__.rpartition(".")[2]  # as the registry knows it

    def prepare(
        benchmark: str,
        output: str,
        options: Mapping[str, Any],
        progress: Progress | None,
        *,
        replace: bool = False,
    ) -> Manifest:
        source = parse_dataclass(options_class, options, "benchmark.options")
        faults = Faults(source.on_error)
        origin = Origin.of(name, options)
        if not replace:
            refuse_other_origin(origin, benchmark, output)
        with _quarantine(output, faults):
            dataset = read(source, faults, progress)
        return write_dataset(
            dataset,
            output,
            benchmark=benchmark,
            faults=faults,
            background=background_colour(source.background),
            progress=progress,
            origin=origin,
            replace=replace,
        )

    return Dataset(options_class, prepare)


@contextmanager
def _quarantine(output: str, faults: Faults) -> Iterator[None]:
    """Write what was put aside also if the block ends with an error, which then says so."""
    try:
        yield
    except PromptideError as error:
        if faults.found:
            with suppress(StorageError):  # the first error is the one to show
                write_quarantine(output, faults.found)
            error.args = (f"{error}; {put_aside(output, faults.found)}",)
        raise


def write_dataset(
    dataset: CheckedDataset,
    output: str,
    *,
    benchmark: str,
    faults: Faults,
    progress: Progress | None,
    background: tuple[int, int, int] = PLAIN.background,
    origin: Origin | None = None,
    replace: bool = False,
    row_group_rows: int = ROW_GROUP_ROWS,
    shard_rows: int = SHARD_ROWS,
) -> Manifest:
    """Turn checked splits into task shards under `output` (path or URI).

    Images that do not decode or have another size than annotated are broken rows, as `faults` says.
    All broken rows are written to `quarantine.parquet` under `output`, also if there is an error in
    the end. The manifest's `source` is the dataset's, its `origin`, what was left out ("skipped" by
    split, "quarantined" by kind of fault), what `write_shards` says of the images and, in
    "in_two_splits", how many of a drawn split are in another one too. What is there from another
    root is kept if it is the same data, and is only written over where `replace` says so.
    Raises: DataError for an image in two splits, a task without rows or, under "stop", a broken
    row; ConfigError, StorageError.
    """
    skipped = {split: index.skipped for split, index in dataset.splits.items()}
    with _quarantine(output, faults):
        counts = {split: index.counts for split, index in dataset.splits.items()}
        check_tasks(counts, dataset.tasks, sparse=dataset.sparse)
        twice = check_disjoint(dataset.splits, faults, dataset.drawn)
        # Without the rows that this put aside.
        check_tasks(counts, dataset.tasks, sparse=dataset.sparse)
        if origin is not None and not replace:
            there = moved_data(dataset.splits, origin, benchmark, output, progress)
            if there is not None:
                return there
        manifest = write_shards(
            dataset.splits,
            output,
            benchmark=benchmark,
            tasks=dataset.tasks,
            source={
                **dataset.source,
                **({} if origin is None else origin.to_source()),
                "skipped": skipped,
                "in_two_splits": twice,
            },
            faults=faults,
            decoding=Decoding(background, dataset.orient),
            row_group_rows=row_group_rows,
            shard_rows=shard_rows,
            progress=progress,
            sparse=dataset.sparse,
            spanned=[split for split, index in dataset.splits.items() if index.spanned],
        )
    write_quarantine(output, faults.found)
    return manifest


def check_disjoint(
    splits: Mapping[str, SplitIndex], faults: Faults, drawn: Collection[str] = ()
) -> dict[str, int]:
    """Check that no image is in two splits, by its bytes: ids may start again in each split.

    Only images of a size that another split has too are read. Under "quarantine" a picture stays
    in one split, of test, val and train the first that has it; rows of other splits are broken.
    Under "stop" it is allowed in two `drawn` splits.
    Returns: how many images of a split are allowed in it although another split has them too.
    Raises: DataError naming the image and both splits.
    """
    allowed: Counter[str] = Counter()
    ranked = [splits[split] for split in sorted(splits, key=_rank)]
    with temporary_database() as database, temporary_space():
        database.execute(
            "CREATE TABLE rows (rank INTEGER, number INTEGER, path TEXT, start INTEGER, "
            "length INTEGER, size INTEGER)"
        )
        database.execute("CREATE TABLE digests (digest BLOB, rank INTEGER, number INTEGER)")
        for rank, index in enumerate(ranked):
            database.executemany(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)",
                ((rank, number, *place) for number, place in enumerate(index.places())),
            )
        database.execute("CREATE INDEX sizes ON rows (size, rank)")
        same_size = database.execute(_SAME_SIZE)

        def digest(
            row: tuple[int, int, str, int, int | None],
        ) -> tuple[bytes | None, int, int]:
            rank, number, path, start, length = row
            try:
                image = ranked[rank].read(StoredImage(Path(path), start, length))
            except DataError:  # which is said when the row is written
                return None, rank, number
            return hashlib.sha256(image).digest(), rank, number

        database.executemany(
            "INSERT INTO digests VALUES (?, ?, ?)",
            bounded_map(digest, same_size, threads=default_threads()),
        )
        database.execute("CREATE INDEX by_digest ON digests (digest, rank, number)")
        for rank, number, other_rank, other_number in database.execute(_SAME_IMAGE):
            index, other = ranked[rank], ranked[other_rank]
            if faults.on_error == "stop" and {index.split, other.split} <= {*drawn}:
                allowed[index.split] += 1
                continue
            error = DataError(
                f"image {index.name(number)!r} of split {index.split!r} is the same picture, byte "
                f"for byte, as image {other.name(other_number)!r} of split {other.split!r}, so "
                "what is tested would be trained on: take one of the two out of its split, or put "
                f"the one of {index.split!r} aside with benchmark.options.on_error=quarantine",
                "image in two splits",
            )
            if faults.on_error == "stop":
                raise error
            index.refuse(number, error)
    return dict(allowed)


def _rank(split: str) -> tuple[int, str]:
    """Order splits: of one picture in several, the first keeps it. What is tested is not lost."""
    kinds = ("test", "val")
    return next((i for i, kind in enumerate(kinds) if split.startswith(kind)), len(kinds)), split

"""From a dataset's own files to task shards, with the checks that need all splits at once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from system.data.coco import CocoSource, index_split
from system.data.datasets import DATASETS
from system.data.manifest import Manifest
from system.data.shards import ROW_GROUP_ROWS, SHARD_ROWS, Progress, write_shards
from system.errors import ConfigError, DataError
from system.parsing import parse_dataclass
from system.storage.locations import absolute

# image id, file name and task of each image
Listing = Iterable[tuple[int, str, str]]


def check_disjoint(splits: Mapping[str, Listing]) -> None:
    """Check that no image is in two splits, by id and by file name.

    Raises: DataError naming the image and both splits.
    """
    owner: dict[int | str, str] = {}
    for split, listing in splits.items():
        for image_id, file_name, _ in listing:
            for key in (image_id, file_name):
                if owner.setdefault(key, split) != split:
                    raise DataError(
                        f"image {file_name!r} (id {image_id}) is in split {split!r} and shares its "
                        f"{'id' if key == image_id else 'file name'} with one of split "
                        f"{owner[key]!r}: correct benchmark.options.splits or the annotations"
                    )


def check_tasks(splits: Mapping[str, Listing], tasks: Sequence[str]) -> None:
    """Check that each task has an image in each split.

    Raises: DataError naming split and tasks.
    """
    for split, listing in splits.items():
        found = {task for _, _, task in listing}
        missing = [task for task in tasks if task not in found]
        if missing:
            raise DataError(
                f"split {split!r} has no image of task {', '.join(map(repr, missing))}: take it "
                "out of benchmark.options.tasks or complete the annotations"
            )


def prepare_coco(
    source: CocoSource,
    output: str,
    *,
    row_group_rows: int = ROW_GROUP_ROWS,
    shard_rows: int = SHARD_ROWS,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Turn a dataset in MSCOCO's format into task shards under `output` (path or URI).

    All annotations of all splits are checked before the first shard is written. The manifest's
    `counts` say the images per task and split; its `source["splits"]` what was skipped and why.
    Raises: ConfigError, DataError naming file and field, StorageError.
    """
    splits = {split: index_split(source, split) for split in source.splits}
    listings = {split: list(index.images) for split, index in splits.items()}
    check_disjoint(listings)
    check_tasks(listings, source.tasks)
    description: dict[str, object] = {
        "format": "coco",
        "root": absolute(source.root),
        "caption_rule": source.caption_rule,
        "splits": {
            split: {"images": len(index), "skipped": index.skipped}
            for split, index in splits.items()
        },
    }
    return write_shards(
        splits,
        output,
        benchmark=source.name,
        tasks=source.tasks,
        source=description,
        row_group_rows=row_group_rows,
        shard_rows=shard_rows,
        threads=threads,
        progress=progress,
    )


@DATASETS.register("coco")
def prepare_configured_coco(
    benchmark: str, output: str, options: Mapping[str, Any], progress: Progress | None
) -> Manifest:
    """Prepare a dataset in MSCOCO's format from a benchmark config.

    `options` are the fields of `CocoSource` but its name.
    Raises: ConfigError for options that are not there, and as `prepare_coco`.
    """
    if "name" in options:
        raise ConfigError("benchmark.options.name: set benchmark.name instead")
    source = parse_dataclass(CocoSource, {**options, "name": benchmark}, "benchmark.options")
    return prepare_coco(source, output, progress=progress)

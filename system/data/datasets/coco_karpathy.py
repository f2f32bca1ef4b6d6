"""Reader of MSCOCO in Karpathy's split: his captions file, the instances and images of 2014."""

from dataclasses import dataclass
from typing import Literal

from system.data.formats.coco_entries import ImageEntry
from system.data.formats.coco_store import CocoStore
from system.data.formats.coco_tasks import TaskFrom, TaskRule, coco_record
from system.data.formats.karpathy import KarpathyImage, read_karpathy
from system.data.prepare.dataset import Progress, dataset_root
from system.data.prepare.image_files import StoredImage, safe_image_path
from system.data.prepare.needed_files import COCO, KARPATHY, NeededFile, coco_archive, needs
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.prepare.split_index import SplitIndexBuilder
from system.data.shards.faults import Faults
from system.errors import DataError

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CocoKarpathySource(ReaderOptions):
    """MSCOCO 2014 on disk and how it becomes a benchmark in Karpathy's split.

    `captions` (dataset_coco.json) and `instances` are relative to `root`, which holds the folders
    that the captions file names (train2014, val2014). `restval` are the images of val2014 that are
    in neither val nor test: usually trained on. `tasks`, in stream order, are super-categories or,
    with `task_from: category`, categories; `task_overrides` as in `CocoSource`.
    """

    tasks: tuple[str, ...]
    captions: str = "dataset_coco.json"
    instances: tuple[str, ...] = (
        "annotations/instances_train2014.json",
        "annotations/instances_val2014.json",
    )
    restval: Literal["train", "leave_out"] = "train"
    task_from: TaskFrom = "supercategory"
    task_overrides: str | None = None


def read_coco_karpathy(
    source: CocoKarpathySource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check MSCOCO in Karpathy's split.

    Raises: DataError naming file and field, StorageError.
    """
    root = dataset_root(source.root)
    rule = TaskRule.read(source.tasks, root, source.task_overrides, source.task_from)
    builders = {split: SplitIndexBuilder(split, source.tasks, faults) for split in _SPLITS}
    field = "benchmark.options"
    with CocoStore.opened("all", faults, progress) as store:
        for number, name in enumerate(source.instances):
            store.add_instances(root / name, f"{field}.instances[{number}]")
        total = len(store)
        listed = read_karpathy(root / source.captions, f"{field}.captions", faults)
        for done, image in enumerate(listed, 1):
            if progress is not None and done <= total:
                progress("annotations", done, total)
            split = "train" if image.split == "restval" else image.split
            if image.split == "restval" and source.restval == "leave_out":
                builders[split].skip("restval")
                continue
            with faults.row(split, image.file_name):
                found = store.image(image.id)
                if found is None:
                    builders[split].skip("without_instances")
                    continue
                _check_same(image, found)
                instances = store.instances(found)
                task = rule.task_of(found, [i for _, i in instances], builders[split])
                if task is None:
                    continue
                path = safe_image_path(
                    root,
                    f"{image.folder}/{image.file_name}",
                    image.where,
                    follow_links=source.follow_links,
                )
                record = coco_record(
                    found, task, instances, image.captions, (), source.caption_rule
                )
                builders[split].add(StoredImage(path), record)
    return CheckedDataset(
        {split: builder.build() for split, builder in builders.items()},
        source.tasks,
        {
            "format": "coco_karpathy",
            "root": str(root),
            "caption_rule": source.caption_rule,
            "restval": source.restval,
        },
    )


def _check_same(listed: KarpathyImage, image: ImageEntry) -> None:
    if listed.file_name != image.file_name:
        raise DataError(
            f"{listed.where}: image {listed.id} is {listed.file_name!r} but {image.file_name!r} in "
            f"{image.where}: the files do not belong together",
            "image described twice",
        )


def coco_karpathy_files(source: CocoKarpathySource) -> list[NeededFile]:
    """List the files that the options name, and the folders that the captions file names."""
    files = [NeededFile("captions", source.captions, KARPATHY)]
    files += [
        NeededFile(f"instances[{number}]", path, coco_archive(path))
        for number, path in enumerate(source.instances)
    ]
    files += [
        NeededFile("root", folder, COCO[folder], images=True) for folder in ("train2014", "val2014")
    ]
    if source.task_overrides is not None:
        files.append(NeededFile("task_overrides", source.task_overrides))
    return files


DATASET = preparer(CocoKarpathySource, read_coco_karpathy)
NEEDED = needs(CocoKarpathySource, coco_karpathy_files)

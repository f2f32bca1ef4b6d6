"""RefCOCO, RefCOCO+ and RefCOCOg as a benchmark, from the UNC release or from MDETR's files.

A row is an image and a task: it has the objects of that task that are referred to in the image, and
the expressions that refer to them, which are its captions too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from system.data.formats.expressions.mdetr_refs import MdetrRelease, mdetr_image_ids
from system.data.formats.expressions.referred_objects import ReferredObject, ReferredObjects
from system.data.formats.expressions.unc_refs import UncRelease, unc_image_ids
from system.data.prepare.annotations import load_annotation_json, shortened
from system.data.prepare.captions import checked_caption, positive_spans
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root
from system.data.prepare.image_files import StoredImage, safe_image_path
from system.data.prepare.needed_files import (
    COCO,
    MDETR_REFS,
    UNC_REFS,
    NeededFile,
    coco_archive,
    needs,
)
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.prepare.split_index import SplitIndex, SplitIndexBuilder
from system.data.shards.faults import Faults
from system.data.shards.schema import Expression, ImageRecord, Instance
from system.errors import DataError

Release = Literal["refcoco", "refcoco+", "refcocog"]

# The division that MDETR's files follow.
_MDETR_SPLIT_BY: dict[str, str] = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


@dataclass(frozen=True)
class RefCocoSource(ReaderOptions):
    """A release of referring expressions and how it becomes a benchmark.

    Paths are relative to `root`: `annotations` is the folder of the release's files, `images`
    MSCOCO's train2014 folder, `instances` the instances file (null: `instances.json` beside the
    refs of the UNC release; none for MDETR's, then a box stands for its mask). `splits` maps a name
    of ours to the release's splits that it joins. With `task_by: dataset` all rows are one task.
    `task_of_ref` is a JSON file {ref_id: task} for the UNC release, such as those of continual
    protocols: references that it leaves out are not used, and `task_by` does not count.
    `other_releases` are refs or MDETR files whose images are counted against these splits.
    """

    format: Literal["unc", "mdetr"]
    release: Release
    split_by: Literal["unc", "umd", "google"]
    annotations: str
    images: str
    splits: dict[str, tuple[str, ...]]
    tasks: tuple[str, ...]
    task_by: Literal["super_category", "dataset"] = "super_category"
    task_of_ref: str | None = None
    instances: str | None = None
    other_releases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        theirs = [name for joined in self.splits.values() for name in joined]
        if not self.splits or not all(self.splits.values()) or len(set(theirs)) != len(theirs):
            raise ValueError(
                "splits must name at least one split, each made of one or more of the release's, "
                "and none of these twice"
            )
        if not self.tasks or (self.task_by == "dataset" and len(self.tasks) != 1):
            raise ValueError("tasks must name super-categories, or one task if task_by=dataset")
        if self.task_of_ref is not None and self.format == "mdetr":
            raise ValueError("task_of_ref: MDETR's files have no ref_id; take format=unc")
        if self.format == "mdetr" and self.split_by != _MDETR_SPLIT_BY[self.release]:
            raise ValueError(
                f"split_by={self.split_by}: MDETR's files of {self.release} follow the split "
                f"{_MDETR_SPLIT_BY[self.release]}"
            )

    def task_of(self, referred: ReferredObject) -> str:
        """Return the task that an object belongs to."""
        if referred.task is not None:
            return referred.task
        if self.task_by == "dataset":
            return self.tasks[0]
        return referred.instance.super_category


def read_refcoco(
    source: RefCocoSource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check a release's splits.

    The manifest's source names the release, its format and who split it, and counts the images that
    each split shares with splits of other releases; of each split's expressions, how many have
    "spans" that name the object, and of how many cleaning "lost" one ("positive_words").
    Raises: ConfigError for a split that the release does not have, DataError naming file and field,
    StorageError.
    """
    root = dataset_root(source.root)
    images = dataset_folder(root, source.images, "images")
    name = f"{source.release}, split by {source.split_by}"
    objects = _read_release(source, root, faults)
    image_ids = {split: {o.image.id for o in of_split} for split, of_split in objects.items()}
    check_images_apart(name, image_ids)
    shared = {other: shared_images(root / other, image_ids) for other in source.other_releases}
    words: dict[str, Counter[str]] = {split: Counter() for split in source.splits}
    splits = {
        split: _index_split(source, images, split, objects.pop(split), faults, words[split])
        for split in source.splits
    }
    check_tasks_there(
        name,
        {split: index.counts for split, index in splits.items()},
        source.tasks,
    )
    return CheckedDataset(
        splits,
        source.tasks,
        {
            "dataset": source.release,
            "format": source.format,
            "split_by": source.split_by,
            "splits": {split: list(theirs) for split, theirs in source.splits.items()},
            "root": str(root),
            "caption_rule": source.caption_rule,
            "task_of_ref": source.task_of_ref,
            "shared_images": shared,
            "positive_words": {split: dict(counts) for split, counts in words.items() if counts},
        },
        sparse=True,
    )


def _read_release(source: RefCocoSource, root: Path, faults: Faults) -> dict[str, ReferredObjects]:
    folder = dataset_folder(root, source.annotations, "annotations")
    instances = None if source.instances is None else root / source.instances
    release: UncRelease | MdetrRelease
    if source.format == "unc":
        tasks = None if source.task_of_ref is None else _ref_tasks(root / source.task_of_ref)
        release = UncRelease(
            folder, source.split_by, instances or folder / "instances.json", faults, tasks
        )
    else:
        release = MdetrRelease(folder, source.release, source.splits, instances, faults)
    return {split: release.objects(split, names, faults) for split, names in source.splits.items()}


def _ref_tasks(path: Path) -> dict[str, str]:
    """Read a file {ref_id: task}. Raises: DataError naming what is no task's name."""
    field = "benchmark.options.task_of_ref"
    content = load_annotation_json(path, field)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} ({field}): is no object of tasks by ref_id")
    for ref, task in content.items():
        if not isinstance(task, str) or not task:
            raise DataError(f"{path} ({field}): {shortened(task)} of ref {ref} is no task's name")
    return content


def _index_split(
    source: RefCocoSource,
    images: Path,
    split: str,
    objects: ReferredObjects,
    faults: Faults,
    words: Counter[str],
) -> SplitIndex:
    rows: dict[tuple[str, str], list[ReferredObject]] = {}
    for referred in objects:
        rows.setdefault((referred.image.id, source.task_of(referred)), []).append(referred)
    builder = SplitIndexBuilder(split, source.tasks, faults)
    for (_, task), of_row in rows.items():
        if task not in source.tasks:
            builder.skip("other_task")
            continue
        image = of_row[0].image
        with faults.row(split, image.file_name):
            path = safe_image_path(
                images, image.file_name, image.where, follow_links=source.follow_links
            )
            instances, expressions = _clean_row(of_row, source.caption_rule, split, faults, words)
            if not expressions:
                continue  # each is in the list of faults
            captions = dict.fromkeys(expression.text for expression in expressions)
            record = ImageRecord(
                image.id,
                image.file_name,
                b"",
                image.width,
                image.height,
                tuple(captions),
                task,
                tuple(instances),
                tuple(expressions),
            )
            builder.add(StoredImage(path), record)
    return builder.build()


def _clean_row(
    objects: list[ReferredObject],
    rule: str,
    split: str,
    faults: Faults,
    words: Counter[str],
) -> tuple[list[Instance], list[Expression]]:
    """Clean a row's expressions; an object whose expressions are all broken is left out."""
    instances: list[Instance] = []
    expressions: list[Expression] = []
    for referred in objects:
        own = []
        for text, where, spans in referred.expressions:
            with faults.row(split, where):
                cleaned = checked_caption(text, rule, where)
                kept = positive_spans(text, spans, rule, words)
                own.append(Expression(len(instances), cleaned, kept))
        if own:
            expressions += own
            instances.append(referred.instance)
    return instances, expressions


def check_images_apart(release: str, image_ids: Mapping[str, set[str]]) -> None:
    """Check that no image is in two splits; `image_ids` is {split: MSCOCO's numbers}.

    Raises: DataError naming the splits, the number of images and what to do.
    """
    names = list(image_ids)
    for position, split in enumerate(names):
        for other in names[:position]:
            shared = image_ids[split] & image_ids[other]
            if shared:
                raise DataError(
                    f"{release}: {len(shared)} images (the first is {min(shared)}) are in split "
                    f"{other!r} and in split {split!r}, so what is tested would be trained on. The "
                    "google division shares out objects, not images: choose split_by unc or umd, "
                    "or take one of the two out of benchmark.options.splits"
                )


def shared_images(path: Path, image_ids: Mapping[str, set[str]]) -> dict[str, dict[str, int]]:
    """Count the images that splits share with another release's: {ours: {theirs: images}}."""
    read_ids = unc_image_ids if path.suffix == ".p" else mdetr_image_ids
    theirs = read_ids(path, "benchmark.options.other_releases")
    return {
        split: {name: len(ids & of_other) for name, of_other in theirs.items()}
        for split, ids in image_ids.items()
    }


def check_tasks_there(
    release: str, counts: Mapping[str, Mapping[str, int]], tasks: Sequence[str]
) -> None:
    """Check that each task has rows in some split, which of RefCOCO's test splits none has in both.

    `counts` is {split: {task: rows}}.
    Raises: DataError naming the tasks, and the override that leaves them out.
    """
    nowhere = [task for task in tasks if not any(of.get(task) for of in counts.values())]
    if len(nowhere) == len(tasks):
        raise DataError(
            f"{release}: no object belongs to a task of benchmark.options.tasks "
            f"({', '.join(tasks)}). If the file's categories are generic, set "
            "benchmark.options.instances to MSCOCO's instances_train2014.json"
        )
    if nowhere:
        left = ",".join(task for task in tasks if task not in nowhere)
        raise DataError(
            f"{release}, refers to no object of these tasks in any split: {', '.join(nowhere)}: "
            f"take the tasks out with benchmark.options.tasks=[{left}]"
        )


def refcoco_files(source: RefCocoSource) -> list[NeededFile]:
    """List the files that the options name, and those of the release's folder."""
    folder = source.annotations
    if source.format == "unc":
        archive, names = UNC_REFS[source.release], [f"refs({source.split_by}).p"]
        if source.instances is None:
            names.append("instances.json")
    else:
        archive = MDETR_REFS
        theirs = [name for joined in source.splits.values() for name in joined]
        names = [f"finetune_{source.release}_{name}.json" for name in theirs]
    files = [NeededFile("annotations", f"{folder}/{name}", archive) for name in names]
    if source.instances is not None:
        files.append(NeededFile("instances", source.instances, coco_archive(source.instances)))
    if source.task_of_ref is not None:
        files.append(NeededFile("task_of_ref", source.task_of_ref))
    files.append(NeededFile("images", source.images, COCO["train2014"], images=True))
    files += [NeededFile("other_releases", path) for path in source.other_releases]
    return files


DATASET = preparer(RefCocoSource, read_refcoco)
NEEDED = needs(RefCocoSource, refcoco_files)

"""Reader of MSCOCO's own files: captions, instances, images and, if there are, expressions."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from system.data.formats.coco_store import CocoStore
from system.data.formats.coco_tasks import (
    TaskFrom,
    TaskRule,
    coco_record,
    read_overrides,
    task_names,
    template_texts,
)
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root, require_splits
from system.data.prepare.image_files import StoredImage, safe_image_path
from system.data.prepare.needed_files import NeededFile, coco_archive, needs
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.prepare.split_index import SplitIndex, SplitIndexBuilder
from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError


@dataclass(frozen=True)
class CocoSplit:
    """Where one split's files lie, relative to the dataset's root.

    A detection export has no captions (null): then neither has the benchmark, unless
    `caption_template` of `CocoSource` makes them.
    """

    captions: str | None
    instances: str
    images: str
    refs: str | None = None


@dataclass(frozen=True)
class CocoSource(ReaderOptions):
    """A dataset in MSCOCO's format and how it becomes a benchmark.

    `splits` maps "train", "val", "test" to files; `tasks` are super-categories, or with
    `task_from: category` categories, in stream order (null: all that images belong to, in the
    files' order); `task_overrides` is a JSON file {file name or image id: task}, relative to the
    root, that wins over the largest-area rule. `caption_template` makes the texts of splits without
    captions, "{category}" replaced by each category in an image. MSCOCO publishes no captions of
    its test images, so `val_share` of the training images can be made the split "val": see
    `is_held_out`.
    """

    splits: dict[str, CocoSplit]
    tasks: tuple[str, ...] | None
    task_from: TaskFrom = "supercategory"
    task_overrides: str | None = None
    caption_template: str | None = None
    val_share: float = 0.0
    val_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.caption_template is not None and "{category}" not in self.caption_template:
            raise ConfigError(
                f"benchmark.options.caption_template={self.caption_template!r} must hold "
                "{category}, where the category's name goes"
            )
        if not 0 <= self.val_share < 1:
            raise ConfigError(
                f"benchmark.options.val_share={self.val_share} must be at least 0 and below 1"
            )
        if self.val_share and ("val" in self.splits or "train" not in self.splits):
            raise ConfigError(
                "benchmark.options.val_share takes images from the split train and makes the split "
                "val of them: set it to 0, or take val out of benchmark.options.splits"
            )


def is_held_out(image_id: str, share: float, seed: int) -> bool:
    """Whether a training image is for validation: a share of them, by each image's own lot.

    The lot is the first 8 bytes of SHA-256 of "<seed>:<image id>" as a big-endian fraction of
    2^64; it does not depend on other images, so a smaller dataset splits as the whole one does.
    """
    lot = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()[:8]
    return int.from_bytes(lot, "big") < share * 2**64


def read_coco(
    source: CocoSource, faults: Faults, progress: Progress | None = None
) -> CheckedDataset:
    """Read and check all splits' annotations and find their images, without reading them.

    Raises: DataError naming file and field for what is wrong in the annotations, broken rows as
    `faults` says; StorageError.
    """
    root = dataset_root(source.root)
    require_splits(
        root,
        {
            split: {kind: path for kind, path in asdict(files).items() if path is not None}
            for split, files in source.splits.items()
        },
    )
    tasks = source.tasks or _tasks_of(source, root)
    rule = TaskRule.read(tasks, root, source.task_overrides, source.task_from)
    splits: dict[str, SplitIndex] = {}
    for split, files in source.splits.items():
        splits |= _index_split(source, split, files, root, rule, faults, progress)
    description: dict[str, object] = {
        "format": "coco",
        "root": str(root),
        "caption_rule": source.caption_rule,
    }
    if source.val_share:
        description |= {"val_share": source.val_share, "val_seed": source.val_seed}
    if source.task_from != "supercategory":
        description["task_from"] = source.task_from
    if source.caption_template is not None:
        description["caption_template"] = source.caption_template
    if source.tasks is None:
        tasks = [task for task in tasks if any(index.counts[task] for index in splits.values())]
    drawn = ("train", "val") if source.val_share else ()
    return CheckedDataset(splits, tasks, description, drawn=drawn)


def _tasks_of(source: CocoSource, root: Path) -> list[str]:
    """List what could be tasks where the options name none."""
    files = {
        f"benchmark.options.splits.{split}.instances": root / files.instances
        for split, files in source.splits.items()
    }
    overrides = read_overrides(root, source.task_overrides).values()
    tasks = list(dict.fromkeys((*overrides, *task_names(files, source.task_from))))
    if not tasks:
        raise DataError(
            "benchmark.options.tasks: is null, but no category of the instances files has a "
            "super-category: set benchmark.options.task_from=category, so that tasks are "
            "categories, or benchmark.options.task_overrides to a file that names every image's"
        )
    return tasks


def _index_split(
    source: CocoSource,
    split: str,
    files: CocoSplit,
    root: Path,
    rule: TaskRule,
    faults: Faults,
    progress: Progress | None,
) -> dict[str, SplitIndex]:
    """Index one split of the files, which is two if images are held out of it."""
    field = f"benchmark.options.splits.{split}"
    folder = dataset_folder(root, files.images, f"splits.{split}.images")
    names = (split, "val") if split == "train" and source.val_share else (split,)
    builders = {name: SplitIndexBuilder(name, rule.tasks, faults) for name in names}
    with CocoStore.opened(split, faults, progress) as store:
        if files.captions is not None:
            store.add_captions(root / files.captions, f"{field}.captions")
        store.add_instances(root / files.instances, f"{field}.instances")
        if files.refs is not None:
            store.add_expressions(root / files.refs, f"{field}.refs")
        for _ in range(store.only_captioned()):
            builders[split].skip("without_instances")
        template = source.caption_template if files.captions is None else None
        total = len(store)
        for done, image in enumerate(store.images(), 1):
            if progress is not None:
                progress(f"{split}: annotations", done, total)
            held_out = len(names) > 1 and is_held_out(image.id, source.val_share, source.val_seed)
            name = "val" if held_out else split
            builder = builders[name]
            with faults.row(name, image.file_name):
                instances = store.instances(image)
                task = rule.task_of(image, [instance for _, instance in instances], builder)
                if task is None:
                    continue
                path = safe_image_path(
                    folder, image.file_name, image.where, follow_links=source.follow_links
                )
                captions = [] if files.captions is None else store.captions(image)
                expressions = store.expressions(image)
                if template is not None:
                    captions, made = template_texts(template, image, instances)
                    expressions = expressions or made
                builder.add(
                    StoredImage(path),
                    coco_record(image, task, instances, captions, expressions, source.caption_rule),
                )
    return {name: builder.build() for name, builder in builders.items()}


def coco_files(source: CocoSource) -> list[NeededFile]:
    """List the files that the options name."""
    files: list[NeededFile] = []
    for split, of in source.splits.items():
        for kind, path in asdict(of).items():
            if path is not None:
                option = f"splits.{split}.{kind}"
                files.append(NeededFile(option, path, coco_archive(path), images=kind == "images"))
    if source.task_overrides is not None:
        files.append(NeededFile("task_overrides", source.task_overrides))
    return files


DATASET = preparer(CocoSource, read_coco)
NEEDED = needs(CocoSource, coco_files)

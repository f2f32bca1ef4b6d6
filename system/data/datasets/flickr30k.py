"""Reader of Flickr30k for retrieval: Karpathy's split file and the folder of photographs."""

from dataclasses import dataclass
from pathlib import Path

from system.data.formats.coco_tasks import read_overrides
from system.data.formats.karpathy import KarpathyImage, read_karpathy
from system.data.prepare.captions import checked_caption
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root
from system.data.prepare.image_files import StoredImage, safe_image_path
from system.data.prepare.needed_files import FLICKR30K_IMAGES, KARPATHY, NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.prepare.split_index import SplitIndexBuilder
from system.data.shards.faults import Faults
from system.data.shards.schema import ImageRecord
from system.errors import DataError

_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class Flickr30kSource(ReaderOptions):
    """Flickr30k on disk and how it becomes a benchmark.

    `captions`, `images` and `task_overrides` are relative to `root`. Flickr30k has no categories:
    either all images are one task, called `task_name`, or `task_overrides` is a JSON file
    {file name: task}; then `tasks` orders them (null: as they first appear in that file), and
    images of other tasks, or that the file does not name, are left out.
    """

    captions: str = "dataset_flickr30k.json"
    images: str = "flickr30k-images"
    caption_rule: str = "lpi"
    task_name: str = "flickr30k"
    task_overrides: str | None = None
    tasks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks is not None and self.task_overrides is None:
            raise ValueError("tasks needs task_overrides, the file that says each image's task")


def read_flickr30k(
    source: Flickr30kSource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check Flickr30k for retrieval.

    Raises: DataError naming file and field, StorageError.
    """
    root = dataset_root(source.root)
    folder = dataset_folder(root, source.images, "images")
    task_of = _read_tasks(root, source)
    if source.tasks is not None:
        tasks = source.tasks
    else:
        tasks = (source.task_name,) if task_of is None else tuple(dict.fromkeys(task_of.values()))
    builders = {split: SplitIndexBuilder(split, tasks, faults) for split in _SPLITS.values()}
    for image in read_karpathy(root / source.captions, "benchmark.options.captions", faults):
        split = _SPLITS[image.split]
        task = task_of.get(image.file_name) if task_of is not None else source.task_name
        if task is None or task not in tasks:
            builders[split].skip("without_task" if task is None else "other_task")
            continue
        with faults.row(split, image.file_name):
            path = safe_image_path(
                folder, image.file_name, image.where, follow_links=source.follow_links
            )
            builders[split].add(StoredImage(path), _record(image, task, source.caption_rule))
    return CheckedDataset(
        {split: builder.build() for split, builder in builders.items()},
        tasks,
        {
            "format": "flickr30k",
            "root": str(root),
            "captions": source.captions,
            "caption_rule": source.caption_rule,
            "task_overrides": source.task_overrides,
        },
        orient=True,
    )


def _record(image: KarpathyImage, task: str, rule: str) -> ImageRecord:
    # The file gives no size: it is taken from the image.
    captions = tuple(checked_caption(text, rule, where) for text, where in image.captions)
    return ImageRecord(image.id, image.file_name, b"", 0, 0, captions, task, (), ())


def _read_tasks(root: Path, source: Flickr30kSource) -> dict[str, str] | None:
    if source.task_overrides is None:
        return None
    tasks = read_overrides(root, source.task_overrides)
    if not tasks:
        raise DataError(f"{root / source.task_overrides}: names no image's task")
    return tasks


def flickr30k_files(source: Flickr30kSource) -> list[NeededFile]:
    """List the files that the options name."""
    files = [
        NeededFile("captions", source.captions, KARPATHY),
        NeededFile("images", source.images, FLICKR30K_IMAGES, images=True),
    ]
    if source.task_overrides is not None:
        files.append(NeededFile("task_overrides", source.task_overrides))
    return files


DATASET = preparer(Flickr30kSource, read_flickr30k)
NEEDED = needs(Flickr30kSource, flickr30k_files)

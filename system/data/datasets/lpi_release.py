"""Reader of the files that LPI's authors train and test retrieval with: MSCOCO's images by task.

`retrieval_train2014.json` is a list of {image, image_id, caption, category}, a row per caption;
`retrieval_val2014.json` has a row per image, whose `caption` is a list. `category` is the number of
one of MSCOCO's twelve super-categories. How an image got its category is not published.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from system.data.datasets.coco import is_held_out
from system.data.formats.image_groups import ImageGroup, ImageGroups
from system.data.prepare.annotations import Entry, read_items
from system.data.prepare.captions import checked_caption
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root, require_splits
from system.data.prepare.image_files import StoredImage, safe_image_path
from system.data.prepare.needed_files import NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.prepare.split_index import SplitIndex, SplitIndexBuilder
from system.data.shards.faults import Faults
from system.data.shards.schema import ImageRecord
from system.errors import ConfigError, DataError

#: The release's number of each task; the order of tasks is that of the published stream.
CATEGORIES: Mapping[str, int] = {
    "appliance": 11,
    "sports": 6,
    "outdoor": 3,
    "electronic": 10,
    "accessory": 5,
    "indoor": 12,
    "kitchen": 7,
    "furniture": 9,
    "vehicle": 2,
    "food": 8,
    "animal": 4,
    "person": 1,
}
_TASKS = {number: task for task, number in CATEGORIES.items()}


@dataclass(frozen=True)
class LpiReleaseSource(ReaderOptions):
    """The release's files and how they become a benchmark.

    `splits` maps "train", "val", "test" to files below `root`; the images that these name are
    below `images`. `val_share` of the training images becomes the split "val", drawn as in
    `CocoSource`.
    """

    splits: dict[str, str] = field(
        default_factory=lambda: {
            "train": "retrieval_train2014.json",
            "test": "retrieval_val2014.json",
        }
    )
    images: str = "."
    tasks: tuple[str, ...] = tuple(CATEGORIES)
    caption_rule: str = "lpi"
    val_share: float = 0.0
    val_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [task for task in self.tasks if task not in CATEGORIES]
        if unknown or not self.tasks:
            raise ConfigError(
                f"benchmark.options.tasks: {', '.join(unknown) or 'none'} is not among "
                f"{', '.join(CATEGORIES)}"
            )
        if not 0 <= self.val_share < 1 or (self.val_share and "val" in self.splits):
            raise ConfigError(
                f"benchmark.options.val_share={self.val_share} must be at least 0 and below 1, and "
                "0 if benchmark.options.splits has a val"
            )


def read_lpi_release(
    source: LpiReleaseSource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check the release's files.

    Raises: DataError naming file, row and field, StorageError.
    """
    root = dataset_root(source.root)
    images = dataset_folder(root, source.images, "images")
    require_splits(root, {split: {"": path} for split, path in source.splits.items()})
    splits: dict[str, SplitIndex] = {}
    for split, name in source.splits.items():
        path = root / name
        with ImageGroups() as groups:
            _collect(path, split, groups, faults, progress)
            splits |= _index_split(source, split, images, groups, faults)
    return CheckedDataset(
        splits,
        source.tasks,
        {
            "format": "lpi_release",
            "root": str(root),
            "splits": dict(source.splits),
            "caption_rule": source.caption_rule,
            "val_share": source.val_share,
            "val_seed": source.val_seed,
        },
        orient=True,
        drawn=("train", "val") if source.val_share else (),
    )


def _collect(
    path: Path, split: str, groups: ImageGroups, faults: Faults, progress: Progress | None
) -> None:
    """Check all rows and bring together those of one image and category.

    A broken row breaks its image, so it is kept with its fault until the image's turn comes.
    """

    def report(done: int, size: int) -> None:
        if progress is not None:
            progress(f"{split}: MB of {path.name}", done, size)

    for where, content in read_items(path, f"benchmark.options.splits.{split}", "", report):
        with faults.row(split, where):
            entry = Entry(content, where)
            name, category = entry.get("image", str), entry.get("category", int)
            if category not in _TASKS:
                raise DataError(
                    f"{where}: field 'category' is {category}, not a number from 1 to {len(_TASKS)}"
                )
            values: dict[str, object] = {"image": name, "category": category}
            try:
                values["image_id"] = entry.identifier("image_id")
                values["captions"] = _captions(entry)
            except DataError as error:
                values |= {"fault": str(error), "kind": error.kind}
            groups.add(f"{category} {name}", where, values)


def _captions(entry: Entry) -> list[str]:
    given = entry.raw("caption")
    texts = given if isinstance(given, list) else [entry.get("caption", str)]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{entry.where}: field 'caption' is no text and no list of texts")
    return texts


def _index_split(
    source: LpiReleaseSource, split: str, images: Path, groups: ImageGroups, faults: Faults
) -> dict[str, SplitIndex]:
    """Index one file's images, which is two splits if some are held out."""
    names = (split, "val") if split == "train" and source.val_share else (split,)
    builders = {name: SplitIndexBuilder(name, source.tasks, faults) for name in names}
    image_of: dict[str, str] = {}
    for group in groups:
        name = group.rows[0][1]["image"]
        task = _TASKS[group.rows[0][1]["category"]]
        with faults.row(split, name):
            image_id, captions = _joined(group, source.caption_rule)
            where = group.rows[0][0]
            if image_of.setdefault(image_id, name) != name:
                raise DataError(
                    f"{where}: image id {image_id} is that of {image_of[image_id]!r} too",
                    "contradiction",
                )
            held_out = len(names) > 1 and is_held_out(image_id, source.val_share, source.val_seed)
            builder = builders["val" if held_out else split]
            if task not in source.tasks:
                builder.skip("other_task")
                continue
            path = safe_image_path(images, name, where, follow_links=source.follow_links)
            record = ImageRecord(image_id, name, b"", 0, 0, captions, task, (), ())
            builder.add(StoredImage(path), record)
    return {name: builder.build() for name, builder in builders.items()}


def _joined(group: ImageGroup, rule: str) -> tuple[str, tuple[str, ...]]:
    """Join the rows of an image: its id and its captions."""
    ids: dict[str, str] = {}
    captions: list[str] = []
    for where, values in group.rows:
        if "fault" in values:
            raise DataError(values["fault"], values["kind"])
        ids.setdefault(values["image_id"], where)
        captions += [checked_caption(text, rule, where) for text in values["captions"]]
    if len(ids) > 1:
        (first, there), (second, here), *_ = ids.items()
        raise DataError(
            f"{here}: field 'image_id' of {values['image']!r} is {second}, but {first} in {there}: "
            "the rows contradict each other",
            "contradiction",
        )
    return next(iter(ids)), tuple(captions)


def lpi_release_files(source: LpiReleaseSource) -> list[NeededFile]:
    """List the files that the options name."""
    files = [NeededFile(f"splits.{split}", path) for split, path in source.splits.items()]
    return [*files, NeededFile("images", source.images, images=True)]


DATASET = preparer(LpiReleaseSource, read_lpi_release)
NEEDED = needs(LpiReleaseSource, lpi_release_files)

"""Reader of class folders: a directory of images for each class, captions from templates.

The layout of most classification data sets, and of the streams made of several of them.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from system.data.formats.folder_splits import SPLITS, Draw, Shares, split_named
from system.data.formats.samples.class_directories import ClassDirectory, class_files, find_classes
from system.data.prepare.annotations import load_annotation_json
from system.data.prepare.captions import check_templates, checked_caption, class_captions
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root
from system.data.prepare.image_files import StoredImage, safe_image_path
from system.data.prepare.needed_files import NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.prepare.split_index import SplitIndex, SplitIndexBuilder
from system.data.shards.faults import Faults
from system.data.shards.schema import ImageRecord
from system.errors import ConfigError, DataError

_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ClassFolderSource(ReaderOptions):
    """Class folders and how they become a benchmark.

    `images` and `names` are relative to `root`. `splits` maps "train", "val", "test" to names of
    directories; null: directories called so are splits, else `shares` draws them. A caption is a
    template with the class's name for `{}`; an image has one for each template. `names` is a JSON
    file {class: name} or a text file of lines "class name"; a class that it does not have is called
    as its directory, with spaces for underscores.

    `classes` orders the classes and leaves out others (null: sorted), then `class_seed` permutes
    them as `numpy.random.seed` and `permutation` do, which is how the field's class orders are
    made. `task_by` makes tasks of "classes", `classes_per_task` of them in that order; of each
    first "directory", several data sets side by side; or of the whole "dataset", called
    `task_name`.
    """

    images: str = "."
    splits: dict[str, str] | None = None
    templates: tuple[str, ...] = ("a photo of a {}.",)
    names: str | None = None
    classes: tuple[str, ...] | None = None
    class_seed: int | None = None
    task_by: Literal["classes", "directory", "dataset"] = "classes"
    classes_per_task: int = 10
    task_name: str = "all"
    tasks: tuple[str, ...] | None = None
    shares: Shares = field(default_factory=Shares)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_templates(self.templates)
        if self.classes_per_task < 1:
            raise ValueError(f"classes_per_task={self.classes_per_task} must be at least 1")
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must name each class once")
        if self.class_seed is not None and not 0 <= self.class_seed < 2**32:
            raise ValueError(f"class_seed={self.class_seed} must be from 0 to 2**32 - 1")
        for split in self.splits or ():
            if split not in SPLITS:
                raise ValueError(f"splits.{split}: a split is one of {', '.join(SPLITS)}")
        if self.splits is not None and (
            not self.splits or len(set(self.splits.values())) != len(self.splits)
        ):
            raise ValueError("splits must name at least one directory, and none of them twice")


def read_class_folder(
    source: ClassFolderSource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check class folders.

    Raises: ConfigError, DataError naming directory and option, StorageError.
    """
    root = dataset_root(source.root)
    folder = dataset_folder(root, source.images, "images")
    named = source.splits is not None
    split_of = {name: split for split, name in (source.splits or {}).items()}.get
    found = find_classes(
        folder,
        split_of if named else split_named,
        named=named,
        datasets=source.task_by == "directory",
    )
    _check_trained(found, folder)
    order = _class_order(source, found, folder)
    names = _class_names(source, root, order)
    task_of = _tasks(source, order)
    tasks = source.tasks or tuple(dict.fromkeys(task_of.values()))
    reading = _Reading(source, folder, found, task_of, names, tasks)
    used = {split: index for split, index in reading.splits(faults, progress).items() if len(index)}
    if not used:
        raise DataError(f"{folder}: holds no image that can be used")
    return CheckedDataset(
        used,
        tasks,
        {
            "format": "class_folder",
            "root": str(root),
            "images": source.images,
            "templates": list(source.templates),
            "classes": {task: _classes_of(task, task_of, names) for task in tasks},
            "shares": None if any(c.split for c in found) else asdict(source.shares),
            "caption_rule": source.caption_rule,
        },
        orient=True,
        drawn=() if any(c.split for c in found) else used,
    )


#: A class by the data set that it is of and its directory's name.
Key = tuple[str, str]


def _check_trained(found: Sequence[ClassDirectory], folder: Path) -> None:
    """Refuse a class that only other splits than the one for training have.

    Mostly it is no class: validation images in one directory, or a name written in two ways.
    """
    trained = {of.key for of in found if of.split in ("train", None)}
    for of in found:
        if of.key not in trained:
            raise DataError(
                f"{folder / of.place}: there is no class {of.name!r} among the training images: "
                "sort the images into directories of classes, name it as there, or say which "
                "directories are splits (benchmark.options.splits={train: ..., test: ...})"
            )


def _class_order(
    source: ClassFolderSource, found: Sequence[ClassDirectory], folder: Path
) -> tuple[Key, ...]:
    order = sorted({of.key for of in found})
    if source.classes is not None:
        wanted = [unicodedata.normalize("NFC", name) for name in source.classes]
        known = {name for _, name in order}
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ConfigError(
                f"benchmark.options.classes: {folder} has no class {', '.join(missing)}"
            )
        place = {name: number for number, name in enumerate(wanted)}
        order = sorted((k for k in order if k[1] in place), key=lambda k: (k[0], place[k[1]]))
    if source.class_seed is not None:
        drawn = np.random.RandomState(source.class_seed).permutation(len(order))
        order = [order[number] for number in drawn]
    return tuple(order)


def _class_names(source: ClassFolderSource, root: Path, order: Sequence[Key]) -> dict[Key, str]:
    """Name each class for its captions.

    Raises: DataError for two classes of a data set with one name, or a WordNet id without a name.
    """
    given = {} if source.names is None else _read_names(root / source.names)
    names: dict[Key, str] = {}
    classes: dict[tuple[str, str], str] = {}
    for dataset, directory in order:
        name = given.get(f"{dataset}/{directory}", given.get(directory))
        if name is None:
            if _WORDNET_ID.fullmatch(directory):
                raise DataError(
                    f"benchmark.options.names: class {directory!r} is a WordNet id and no name: "
                    'give a file {"'
                    + directory
                    + '": name, ...}, or lines "'
                    + directory
                    + ' name"'
                )
            name = directory.replace("_", " ")
        names[dataset, directory] = name
        other = classes.setdefault((dataset, name), directory)
        if other != directory:
            raise DataError(
                f"classes {other!r} and {directory!r} are both called {name!r}, so that their "
                "captions would be the same: tell them apart in benchmark.options.names"
            )
    return names


def _read_names(path: Path) -> dict[str, str]:
    """Read names of classes, by directory in Unicode's composed form."""
    field = "benchmark.options.names"
    if path.suffix.lower() == ".json":
        content = load_annotation_json(path, field)
        if not isinstance(content, dict):
            raise DataError(f"{path}: is not an object {{class: name}}")
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{field}: {path} cannot be read ({error})") from error
        content = dict(line.split(maxsplit=1) for line in lines if len(line.split()) > 1)
    for directory, name in content.items():
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{path}: the name of class {directory!r} is {name!r}, not a text")
    return {unicodedata.normalize("NFC", key): name.strip() for key, name in content.items()}


def _tasks(source: ClassFolderSource, order: Sequence[Key]) -> dict[Key, str]:
    """Say which task each class belongs to."""
    if source.task_by == "dataset":
        return dict.fromkeys(order, source.task_name)
    if source.task_by == "directory":
        return {key: key[0] for key in order}
    digits = len(str(len(order)))
    task_of: dict[Key, str] = {}
    for start in range(0, len(order), source.classes_per_task):
        group = order[start : start + source.classes_per_task]
        first, last = (f"{n:0{digits}d}" for n in (start + 1, start + len(group)))
        task_of |= dict.fromkeys(group, f"classes_{first}-{last}")
    return task_of


def _classes_of(task: str, task_of: Mapping[Key, str], names: Mapping[Key, str]) -> list[str]:
    return [names[key] for key, of_task in task_of.items() if of_task == task]


@dataclass(frozen=True)
class _Reading:
    """What is known of all classes before their images are placed in splits."""

    source: ClassFolderSource
    folder: Path
    found: Sequence[ClassDirectory]
    task_of: Mapping[Key, str]
    names: Mapping[Key, str]
    tasks: Sequence[str]

    def splits(self, faults: Faults, progress: Progress | None) -> dict[str, SplitIndex]:
        """Place all images, a second time if a draw leaves a split without a task's image.

        Raises: DataError, also for a task too small to be drawn.
        """
        before = len(faults.found)
        draw = Draw(self.source.shares)
        splits = self._place(draw, faults, progress)
        undivided = {self.task_of.get(of.key) for of in self.found if of.split is None}
        drawn = [task for task in self.tasks if task in undivided]
        counts = {split: index.counts for split, index in splits.items()}
        if any(len(index) for index in splits.values()) and draw.mend(counts, drawn):
            del faults.found[before:]  # they are found again
            splits = self._place(draw, faults, progress)
        return splits

    def _place(
        self, draw: Draw, faults: Faults, progress: Progress | None
    ) -> dict[str, SplitIndex]:
        builders = {split: SplitIndexBuilder(split, self.tasks, faults) for split in SPLITS}
        for done, of in enumerate(self.found, 1):
            if progress is not None:
                progress("classes", done, len(self.found))
            for file_name, left_out in class_files(self.folder, of.place):
                split = of.split or draw.split_of(file_name)
                task = self.task_of.get(of.key)
                if left_out is not None or task is None or task not in self.tasks:
                    builders[split].skip(left_out or ("other_task" if task else "other_class"))
                    continue
                broken = len(faults.found)
                with faults.row(split, file_name):
                    builders[split].add(
                        self._stored(of, file_name), self._record(of, file_name, task)
                    )
                if of.split is None and len(faults.found) == broken:
                    draw.note(task, file_name)
        return {split: builder.build() for split, builder in builders.items()}

    def _stored(self, of: ClassDirectory, file_name: str) -> StoredImage:
        where, links = str(self.folder / of.place), self.source.follow_links
        return StoredImage(safe_image_path(self.folder, file_name, where, follow_links=links))

    def _record(self, of: ClassDirectory, file_name: str, task: str) -> ImageRecord:
        where, rule = str(self.folder / of.place), self.source.caption_rule
        captions = tuple(
            checked_caption(caption, rule, where)
            for caption in class_captions(self.source.templates, self.names[of.key])
        )
        # The file's name is its id: it stays when images are added.
        return ImageRecord(file_name, file_name, b"", 0, 0, captions, task, (), ())


def class_folder_files(source: ClassFolderSource) -> list[NeededFile]:
    """List the files that the options name."""
    files = [NeededFile("images", source.images, images=True)]
    return files if source.names is None else [*files, NeededFile("names", source.names)]


DATASET = preparer(ClassFolderSource, read_class_folder)
NEEDED = needs(ClassFolderSource, class_folder_files)

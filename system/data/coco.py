"""Reader of MSCOCO's own files: captions, instances, images and, if there are, expressions."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from system.data.annotations import load_annotation_json, safe_image_path
from system.data.captions import clean_caption
from system.data.coco_tables import CaptionTable, ImageEntry, InstanceTable, read_expressions
from system.data.masks import mask_area
from system.data.schema import Expression, ImageRecord, Instance
from system.errors import ConfigError, DataError
from system.storage.locations import absolute


@dataclass(frozen=True)
class CocoSplit:
    """Where one split's files lie, relative to the dataset's root."""

    captions: str
    instances: str
    images: str
    refs: str | None = None


@dataclass(frozen=True)
class CocoSource:
    """A dataset in MSCOCO's format and how it becomes a benchmark.

    `splits` maps "train", "val", "test" to files; `tasks` are super-categories in stream order;
    `task_overrides` is a JSON file {file name or image id: task}, relative to the root, that wins
    over the largest-area rule.
    """

    name: str
    root: str
    splits: dict[str, CocoSplit]
    tasks: tuple[str, ...]
    caption_rule: str = "none"
    task_overrides: str | None = None

    def __post_init__(self) -> None:
        clean_caption("", self.caption_rule)  # an unknown rule is told before files are read
        if not self.splits:
            raise ConfigError("benchmark.options.splits: at least one split is needed")


@dataclass(frozen=True, slots=True)
class _Planned:
    """An image's row without its bytes, and the path of the bytes."""

    path: Path
    record: ImageRecord


class CocoSplitIndex:
    """One split, its annotations read and checked, its images found but not yet read.

    Images are ordered by task, inside a task as in the instances file. `skipped` counts images
    that are left out, by reason.
    """

    def __init__(
        self, planned: list[_Planned], skipped: Mapping[str, int], fingerprint: str
    ) -> None:
        self._planned = planned
        self.skipped = dict(skipped)
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """SHA-256 over rows and the size and time of each image file."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self._planned)

    def load(self, index: int) -> ImageRecord:
        """Read one image's bytes.

        Raises: DataError naming a file that cannot be read any more.
        """
        planned = self._planned[index]
        try:
            return replace(planned.record, image=planned.path.read_bytes())
        except OSError as error:
            raise DataError(f"{planned.path}: cannot be read ({error})") from error

    @property
    def images(self) -> Iterator[tuple[int, str, str]]:
        """Go through (image id, file name, task)."""
        for planned in self._planned:
            yield planned.record.image_id, planned.record.file_name, planned.record.task


def index_split(source: CocoSource, split: str) -> CocoSplitIndex:
    """Read and check one split's annotations and find its images, without reading them.

    Raises: ConfigError for a split or caption rule that is not there; DataError naming file and
    field for whatever is wrong in the annotations.
    """
    if split not in source.splits:
        raise ConfigError(
            f"benchmark.options.splits: there is no {split!r}, only {', '.join(source.splits)}"
        )
    root = _root(source)
    files = source.splits[split]
    field = f"benchmark.options.splits.{split}"
    folder = root / files.images
    if not folder.is_dir():
        raise DataError(
            f"{field}.images: the folder {folder} does not exist: fetch the dataset's images or "
            "correct this field"
        )
    captions = CaptionTable.read(root / files.captions, f"{field}.captions")
    instances = InstanceTable.read(root / files.instances, f"{field}.instances", captions.images)
    expressions: Mapping[int, list[tuple[int, str, str]]] = {}
    if files.refs is not None:
        expressions = read_expressions(
            root / files.refs, f"{field}.refs", split, instances.images, instances.image_of
        )
    overrides = _read_overrides(source, root)

    by_task: dict[str, list[_Planned]] = {task: [] for task in source.tasks}
    skipped = Counter(
        {"without_instances": sum(image not in instances.images for image in captions.images)}
    )
    for image in instances.images.values():
        # An image's polygons are turned into masks only now, so that no file's masks and JSON
        # are held twice.
        of_image = instances.of_image(image)
        forced = overrides.get(image.file_name, overrides.get(str(image.id)))
        if not of_image and forced is None:
            skipped["without_instances"] += 1
            continue
        task = forced or largest_super_category([i for _, i in of_image], source.tasks)
        if task not in by_task:
            skipped["other_task"] += 1
            continue
        path = safe_image_path(folder, image.file_name, image.where)
        record = ImageRecord(
            image.id,
            image.file_name,
            b"",
            image.width,
            image.height,
            _clean_captions(captions, image, source.caption_rule),
            task,
            tuple(instance for _, instance in of_image),
            _clean_expressions(
                expressions.get(image.id, []), [id_ for id_, _ in of_image], source.caption_rule
            ),
        )
        by_task[task].append(_Planned(path, record))
    planned = [item for task in source.tasks for item in by_task[task]]
    return CocoSplitIndex(planned, skipped, _fingerprint(planned))


def read_split(source: CocoSource, split: str) -> Iterator[ImageRecord]:
    """Go through a split's rows, each with its image's bytes; see `index_split` for the errors."""
    index = index_split(source, split)
    for position in range(len(index)):
        yield index.load(position)


def largest_super_category(instances: list[Instance], order: tuple[str, ...]) -> str:
    """Name the super-category whose masks' areas have the largest sum in an image.

    Crowds count. Of equal ones the first in `order` wins, then, for names that are not in it, the
    first in the alphabet.
    """
    areas: Counter[str] = Counter()
    for instance in instances:
        areas[instance.super_category] += mask_area(instance.mask)
    rank = {name: position for position, name in enumerate(order)}
    return min(areas, key=lambda name: (-areas[name], rank.get(name, len(rank)), name))


def _root(source: CocoSource) -> Path:
    root = Path(absolute(source.root))
    if not root.is_dir():
        raise DataError(
            f"benchmark.options.root: the folder {root} does not exist: set it to the folder "
            "that holds the dataset's images and annotations"
        )
    return root


def _read_overrides(source: CocoSource, root: Path) -> dict[str, str]:
    if source.task_overrides is None:
        return {}
    path = root / source.task_overrides
    content = load_annotation_json(path, "benchmark.options.task_overrides")
    if not isinstance(content, dict):
        raise DataError(f"{path}: is not an object {{file name or image id: task}}")
    for key, task in content.items():
        if task not in source.tasks:
            raise DataError(
                f"{path}: field {key!r} names the task {task!r}, which is not in "
                "benchmark.options.tasks"
            )
    return content


def _clean_captions(captions: CaptionTable, image: ImageEntry, rule: str) -> tuple[str, ...]:
    texts = captions.texts.get(image.id, [])
    if not texts:
        raise DataError(
            f"{image.where}: image {image.file_name!r} has no caption in the captions file"
        )
    return tuple(_cleaned(text, rule, where) for text, where in texts)


def _clean_expressions(
    expressions: list[tuple[int, str, str]], instance_ids: list[int], rule: str
) -> tuple[Expression, ...]:
    return tuple(
        Expression(instance_ids.index(instance_id), _cleaned(text, rule, where))
        for instance_id, text, where in expressions
    )


def _cleaned(text: str, rule: str, where: str) -> str:
    cleaned = clean_caption(text, rule)
    if not cleaned:
        raise DataError(
            f"{where}: the text {text!r} is empty after cleaning by rule {rule!r}: correct or "
            "remove the annotation"
        )
    return cleaned


def _fingerprint(planned: list[_Planned]) -> str:
    digest = hashlib.sha256()
    for item in planned:
        status = item.path.stat()
        digest.update(repr((item.record, status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()

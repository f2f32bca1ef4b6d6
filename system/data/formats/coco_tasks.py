"""Assignment of MSCOCO's images to tasks, and their rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from system.data.formats.coco_entries import ImageEntry
from system.data.prepare.annotations import load_annotation_json
from system.data.prepare.captions import checked_caption
from system.data.prepare.split_index import SplitIndexBuilder
from system.data.shards.masks import mask_area
from system.data.shards.schema import Expression, ImageRecord, Instance
from system.errors import DataError


@dataclass(frozen=True)
class TaskRule:
    """Assigns an image to the super-category that covers most of it, unless overridden.

    `overrides` is {file name or image id: task}.
    """

    tasks: tuple[str, ...]
    overrides: Mapping[str, str]

    @classmethod
    def read(cls, tasks: tuple[str, ...], root: Path, overrides: str | None) -> "TaskRule":
        """Read `benchmark.options.task_overrides`, a JSON file in the root, if there is one.

        Raises: DataError for a file that is no object or names a task that is not there.
        """
        if overrides is None:
            return cls(tasks, {})
        path = root / overrides
        content = load_annotation_json(path, "benchmark.options.task_overrides")
        if not isinstance(content, dict):
            raise DataError(f"{path}: is not an object {{file name or image id: task}}")
        for key, task in content.items():
            if task not in tasks:
                raise DataError(
                    f"{path}: field {key!r} names the task {task!r}, which is not in "
                    "benchmark.options.tasks"
                )
        return cls(tasks, content)

    def task_of(
        self, image: ImageEntry, instances: Sequence[Instance], builder: SplitIndexBuilder
    ) -> str | None:
        """Name the image's task; None, and counted by the builder, if it is left out."""
        forced = self.overrides.get(image.file_name, self.overrides.get(str(image.id)))
        if forced is not None:
            return forced
        if not instances:
            builder.skip("without_instances")
            return None
        task = largest_super_category(instances, self.tasks)
        if task in self.tasks:
            return task
        builder.skip("other_task")
        return None


def largest_super_category(instances: Sequence[Instance], order: Sequence[str]) -> str:
    """Name the super-category whose masks' areas have the largest sum in an image.

    Crowds count. Of equal ones the first in `order` wins, then, for names that are not in it, the
    first in the alphabet.
    """
    areas: Counter[str] = Counter()
    for instance in instances:
        areas[instance.super_category] += mask_area(instance.mask)
    rank = {name: position for position, name in enumerate(order)}
    return min(areas, key=lambda name: (-areas[name], rank.get(name, len(rank)), name))


def coco_record(
    image: ImageEntry,
    task: str,
    instances: Sequence[tuple[int, Instance]],
    captions: Sequence[tuple[str, str]],
    expressions: Sequence[tuple[int, str, str]],
    rule: str,
) -> ImageRecord:
    """Build an image's row without its bytes from what `CocoStore` found; `rule` cleans texts.

    Raises: DataError for a text that is empty then, or an expression of an unknown instance.
    """
    place = {identifier: index for index, (identifier, _) in enumerate(instances)}
    referring = []
    for identifier, text, where in expressions:
        if identifier not in place:
            raise DataError(
                f"{where.rpartition(': ')[0]}: field 'ann_id' {identifier} is no instance of image "
                f"{image.id}",
                "unknown annotation",
            )
        referring.append(Expression(place[identifier], checked_caption(text, rule, where)))
    return ImageRecord(
        str(image.id),
        image.file_name,
        b"",
        image.width,
        image.height,
        tuple(checked_caption(text, rule, where) for text, where in captions),
        task,
        tuple(instance for _, instance in instances),
        tuple(referring),
    )

"""Assignment of MSCOCO's images to tasks, and their rows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from system.data.formats.coco_entries import ImageEntry, read_category
from system.data.prepare.annotations import (
    Entry,
    checked_text,
    load_annotation_json,
    read_items,
)
from system.data.prepare.captions import checked_caption
from system.data.prepare.split_index import SplitIndexBuilder
from system.data.shards.masks import mask_area
from system.data.shards.schema import Expression, ImageRecord, Instance
from system.errors import DataError

TaskFrom = Literal["supercategory", "category"]

# What exports write that have to write something.
_NO_SUPER_CATEGORIES = ("", "none")


@dataclass(frozen=True)
class TaskRule:
    """Assigns an image to the category or super-category that covers most of it.

    `overrides` is {file name or image id: task}, which wins. `task_from` says whether tasks are
    names of super-categories or of categories.
    """

    tasks: tuple[str, ...]
    overrides: Mapping[str, str]
    task_from: TaskFrom = "supercategory"

    @classmethod
    def read(
        cls,
        tasks: Sequence[str],
        root: Path,
        overrides: str | None,
        task_from: TaskFrom = "supercategory",
    ) -> "TaskRule":
        """Read `benchmark.options.task_overrides`, if there is one.

        Raises: DataError for a file that is no object or names a task that is not there.
        """
        content = read_overrides(root, overrides)
        for key, task in content.items():
            if task not in tasks:
                raise DataError(
                    f"{root / str(overrides)}: field {key!r} names the task {task!r}, which is not "
                    "in benchmark.options.tasks"
                )
        return cls(tuple(tasks), content, task_from)

    def task_of(
        self, image: ImageEntry, instances: Sequence[Instance], builder: SplitIndexBuilder
    ) -> str | None:
        """Name the image's task; None, and counted by the builder, if it is left out.

        Raises: DataError if that needs a super-category and there is none.
        """
        forced = self.overrides.get(image.file_name, self.overrides.get(image.id))
        if forced is None and not instances:
            builder.skip("without_instances")
            return None
        task = forced or largest_name(self._named(image, instances), self.tasks)
        if task in self.tasks:
            return task
        builder.skip("other_task")
        return None

    def _named(
        self, image: ImageEntry, instances: Sequence[Instance]
    ) -> Iterator[tuple[str, Instance]]:
        for instance in instances:
            if self.task_from == "category":
                yield instance.category, instance
                continue
            name = instance.super_category
            if name in _NO_SUPER_CATEGORIES and name not in self.tasks:
                raise DataError(
                    f"{image.where}: image {image.file_name!r} shows the category "
                    f"{instance.category!r}, which has no super-category to be its task: set "
                    "benchmark.options.task_from=category, so that tasks are categories, or "
                    "benchmark.options.task_overrides to a file that names every image's task",
                    "no super-category",
                )
            yield name, instance


def read_overrides(root: Path, overrides: str | None) -> dict[str, str]:
    """Read `benchmark.options.task_overrides`, a JSON file in the root, if there is one.

    Raises: DataError for a file that is no object of names.
    """
    if overrides is None:
        return {}
    path = root / overrides
    content = load_annotation_json(path, "benchmark.options.task_overrides")
    if not isinstance(content, dict):
        raise DataError(f"{path}: is not an object {{file name or image id: task}}")
    for key, task in content.items():
        if not isinstance(task, str) or not task:
            raise DataError(f"{path}: field {key!r} is {task!r}, not the name of a task")
        checked_text(task, str(path), key)
    return content


def task_names(files: Mapping[str, Path], task_from: TaskFrom) -> list[str]:
    """List what could be tasks, in the order of the files' categories.

    `files` are instances files by the config field that names them.
    Raises: DataError.
    """
    names: dict[str, None] = {}
    for field, path in files.items():
        for where, content in read_items(path, field, "categories"):
            category, super_category = read_category(Entry(content, where))
            names[category if task_from == "category" else super_category] = None
    if task_from == "supercategory":
        return [name for name in names if name not in _NO_SUPER_CATEGORIES]
    return list(names)


def largest_name(instances: Iterable[tuple[str, Instance]], order: Sequence[str]) -> str:
    """Name that whose instances' masks have the largest sum of areas in an image.

    Crowds count. Of equal ones the first in `order` wins, then, for names that are not in it, the
    first in the alphabet.
    """
    areas: Counter[str] = Counter()
    for name, instance in instances:
        areas[name] += mask_area(instance.mask)
    rank = {name: position for position, name in enumerate(order)}
    return min(areas, key=lambda name: (-areas[name], rank.get(name, len(rank)), name))


def coco_record(
    image: ImageEntry,
    task: str,
    instances: Sequence[tuple[str, Instance]],
    captions: Sequence[tuple[str, str]],
    expressions: Sequence[tuple[str, str, str]],
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
        image.id,
        image.file_name,
        b"",
        image.width,
        image.height,
        tuple(checked_caption(text, rule, where) for text, where in captions),
        task,
        tuple(instance for _, instance in instances),
        tuple(referring),
    )


def template_texts(
    template: str, image: ImageEntry, instances: Sequence[tuple[str, Instance]]
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    """Make the texts of an image that has none: one per category, in the order of its instances.

    A category's only object is referred to by the same text; with several it would say nothing.
    Returns: captions and expressions, as `CocoStore` lists those of a file.
    Raises: DataError for an image without objects.
    """
    if not instances:
        raise DataError(
            f"{image.where}: image {image.file_name!r} shows no object that "
            "benchmark.options.caption_template could name",
            "no caption",
        )
    of_category: dict[str, list[str]] = {}
    for identifier, instance in instances:
        of_category.setdefault(instance.category, []).append(identifier)
    where = "benchmark.options.caption_template"
    texts = {name: template.replace("{category}", name) for name in of_category}
    return (
        [(text, where) for text in texts.values()],
        [(own[0], texts[name], where) for name, own in of_category.items() if len(own) == 1],
    )

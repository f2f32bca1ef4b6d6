"""Reader of MDETR's JSON of RefCOCO, RefCOCO+ and RefCOCOg: `finetune_<release>_<split>.json`.

Source: https://github.com/ashkamath/mdetr (.github/refexp.md). MSCOCO's layout, but an entry of
`images` is an expression (`caption`) with one annotation; `original_id` is MSCOCO's number of the
image, and in an annotation that of the object.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from system.data.formats.coco_entries import (
    ImageEntry,
    find_category,
    read_box,
    read_categories,
    read_image,
    read_mask,
    unique_id,
)
from system.data.formats.referred_objects import ObjectTable, ReferredObject, ReferredObjects
from system.data.prepare.annotations import Entry, load_annotation_json
from system.data.shards.faults import Faults
from system.data.shards.masks import mask_from_box
from system.data.shards.schema import Instance, Mask
from system.errors import DataError


class _SplitFile:
    """One split's expressions and their annotations."""

    def __init__(self, path: Path, release: str) -> None:
        top = Entry(load_annotation_json(path, "benchmark.options.splits"), str(path))
        self.categories = read_categories(top.entries("categories"))
        self.expressions: dict[int, Entry] = {}
        for entry in top.entries("images"):
            self.expressions[unique_id(entry, "id", self.expressions)] = entry
            if entry.raw("dataset_name") not in (None, release):
                raise DataError(
                    f"{entry.where}: field 'dataset_name' is {entry.raw('dataset_name')!r} but "
                    f"benchmark.options.release is {release!r}: the file holds another data set"
                )
        self.annotations: dict[int, list[Entry]] = {}
        ids: set[int] = set()
        for entry in top.entries("annotations"):
            ids.add(unique_id(entry, "id", ids))
            self.annotations.setdefault(entry.get("image_id", int), []).append(entry)


class MdetrRelease:
    """A release's files, one per split, and MSCOCO's instances file if there is one."""

    def __init__(
        self, folder: Path, release: str, theirs: Iterable[str], instances: Path | None
    ) -> None:
        """Read `finetune_<release>_<split>.json` in `folder` for each split of `theirs`.

        `instances` is MSCOCO's instances file, for categories and masks that these files lack.
        Raises: DataError for a missing file or field, a duplicated id or a file of another release.
        """
        self._files = {
            split: _SplitFile(folder / f"finetune_{release}_{split}.json", release)
            for split in theirs
        }
        self._objects: ObjectTable | None = None
        if instances is not None:
            wanted = {
                identifier
                for file in self._files.values()
                for entries in file.annotations.values()
                for entry in entries
                if isinstance(identifier := entry.raw("original_id"), int)
            }
            self._objects = ObjectTable(instances, "benchmark.options.instances", wanted)

    def objects(self, split: str, theirs: Sequence[str], faults: Faults) -> ReferredObjects:
        """Collect the objects of `theirs`, the release's splits that make up our `split`.

        Raises: DataError for a broken expression or annotation, unless it is quarantined.
        """
        objects = ReferredObjects()
        for name in theirs:
            for identifier, entry in self._files[name].expressions.items():
                with faults.row(split, f"{name} expression {identifier}"):
                    objects.add(self._referred(self._files[name], identifier, entry))
        return objects

    def _referred(self, file: _SplitFile, expression: int, entry: Entry) -> ReferredObject:
        image = read_image(entry, "original_id")
        annotations = file.annotations.get(expression, [])
        if len(annotations) != 1:
            raise DataError(
                f"{entry.where}: expression {expression} has {len(annotations)} annotations, not "
                "one",
                "object count",
            )
        (annotation,) = annotations
        identifier = annotation.get("original_id", int)
        published = None
        if self._objects is not None:
            published = self._objects.find(identifier, image.id, annotation.where)
        if self._objects is not None and published is not None:
            category = self._objects.category(published)
        else:
            category = find_category(annotation, file.categories)
        box = read_box(annotation, image)
        instance = Instance(box, *category, _mask(annotation, published, box, image))
        return ReferredObject(
            identifier, image, instance, [(entry.get("caption", str), entry.where)]
        )


def _mask(
    annotation: Entry,
    published: Entry | None,
    box: tuple[float, float, float, float],
    image: ImageEntry,
) -> Mask:
    """Take the annotation's own outline, else the one in MSCOCO's file, else the box."""
    if annotation.raw("segmentation"):
        return read_mask(annotation, image)
    if published is not None:
        return read_mask(published, image)
    return mask_from_box(box, image.height, image.width)


def mdetr_image_ids(path: Path, field: str) -> dict[str, set[int]]:
    """Read which of MSCOCO's images a file uses: {split, the last part of its name: image ids}.

    `field` is the config field that names the file.

    Raises: DataError for a missing file or field.
    """
    top = Entry(load_annotation_json(path, field), str(path))
    ids = {entry.get("original_id", int) for entry in top.entries("images")}
    return {path.stem.rpartition("_")[2]: ids}

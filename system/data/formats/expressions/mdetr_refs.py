"""Reader of MDETR's JSON of RefCOCO, RefCOCO+ and RefCOCOg: `finetune_<release>_<split>.json`.

Source: https://github.com/ashkamath/mdetr (.github/refexp.md). MSCOCO's layout, but an entry of
`images` is an expression (`caption`) with one annotation; `original_id` is MSCOCO's number of the
image, and in an annotation that of the object. An annotation's `tokens_positive` are the characters
of the caption that name the object, [begin, end) each; some projects' files have other ones to
evaluate by in the expression, `tokens_positive_eval`: a list of such lists, one a phrase.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from system.data.formats.coco_entries import (
    entry_with_id,
    find_category,
    has_outline,
    read_box,
    read_image,
    read_mask,
    unique_id,
)
from system.data.formats.expressions.referred_objects import (
    ObjectTable,
    Published,
    ReferredObject,
    ReferredObjects,
)
from system.data.prepare.annotations import Entry, read_items, read_lists, shortened
from system.data.shards.faults import Faults
from system.data.shards.schema import Instance, Span
from system.errors import DataError

# A span's end may be this far behind the caption: GLIP's last token is that of one of the three
# characters before it.
_OVERHANG = 2


class _SplitFile:
    """One split's expressions and their annotations; broken rows are those of `split`, ours."""

    def __init__(self, path: Path, release: str, split: str, faults: Faults) -> None:
        self.categories: dict[str, Entry] = {}
        self.expressions: dict[str, Entry] = {}
        self.annotations: dict[str, list[Entry]] = {}
        ids: set[str] = set()
        field = "benchmark.options.splits"
        for listing, where, content in read_lists(
            path, field, ("images", "annotations", "categories")
        ):
            entry = entry_with_id(content, where, "id", split, faults)
            if entry is None:
                continue
            if listing == "categories":
                self.categories[unique_id(entry, "id", self.categories)] = entry
            elif listing == "images":
                self.expressions[unique_id(entry, "id", self.expressions)] = entry
                if entry.raw("dataset_name") not in (None, release):
                    raise DataError(
                        f"{entry.where}: field 'dataset_name' is {entry.raw('dataset_name')!r} but "
                        f"benchmark.options.release is {release!r}: the file holds another data set"
                    )
            else:
                ids.add(unique_id(entry, "id", ids))
                with faults.row(split, where):
                    self.annotations.setdefault(entry.identifier("image_id"), []).append(entry)


class MdetrRelease:
    """A release's files, one per split, and MSCOCO's instances file if there is one."""

    def __init__(
        self,
        folder: Path,
        release: str,
        splits: Mapping[str, Sequence[str]],
        instances: Path | None,
        faults: Faults,
    ) -> None:
        """Read `finetune_<release>_<split>.json` in `folder` for each of the release's splits.

        `splits` maps a split of ours to those that make it up; `instances` is MSCOCO's instances
        file, for categories and masks that these files lack.
        Raises: DataError for a missing file, a duplicated id, a file of another release or, through
        `faults`, an entry without an id.
        """
        self._files = {
            theirs: _SplitFile(folder / f"finetune_{release}_{theirs}.json", release, ours, faults)
            for ours, names in splits.items()
            for theirs in names
        }
        self._objects: ObjectTable | None = None
        if instances is not None:
            wanted = {
                identifier
                for file in self._files.values()
                for entries in file.annotations.values()
                for entry in entries
                if (identifier := entry.readable_id("original_id")) is not None
            }
            self._objects = ObjectTable(instances, "benchmark.options.instances", wanted, faults)

    def objects(self, split: str, theirs: Sequence[str], faults: Faults) -> ReferredObjects:
        """Collect the objects of `theirs`, the release's splits that make up our `split`.

        What names an object in an expression is what the file trains by, or for all splits but
        "train" what it evaluates by.
        Raises: DataError for a broken expression or annotation, unless it is quarantined.
        """
        objects = ReferredObjects()
        for name in theirs:
            for identifier, entry in self._files[name].expressions.items():
                with faults.row(split, f"{name} expression {identifier}"):
                    trained = split == "train"
                    objects.add(self._referred(self._files[name], identifier, entry, trained))
        return objects

    def _referred(
        self, file: _SplitFile, expression: str, entry: Entry, trained: bool
    ) -> ReferredObject:
        image = read_image(entry, "original_id")
        annotations = file.annotations.get(expression, [])
        if len(annotations) != 1:
            raise DataError(
                f"{entry.where}: expression {expression} has {len(annotations)} annotations, not "
                "one",
                "object count",
            )
        (annotation,) = annotations
        identifier = annotation.identifier("original_id")
        published = None
        if self._objects is not None:
            published = self._objects.find(identifier, image.id, annotation.where)
        if self._objects is not None and published is not None:
            category = self._objects.category(published)
        else:
            category = find_category(annotation, file.categories)
        box = read_box(annotation, image)
        # The annotation's own outline, else the one in MSCOCO's file, else the box.
        outlined = annotation if published is None or has_outline(annotation) else published
        instance = Instance(box, *category, read_mask(outlined, box, image))
        caption = entry.get("caption", str)
        spans = read_spans(
            annotation, "tokens_positive", annotation.raw("tokens_positive"), caption
        )
        if not trained and entry.has("tokens_positive_eval"):
            phrases = entry.raw("tokens_positive_eval")
            if not isinstance(phrases, list) or len(phrases) != 1:
                raise DataError(
                    f"{entry.where}: field 'tokens_positive_eval' is {shortened(phrases)}, not a "
                    "list of one phrase: which one names the object can't be told",
                    "positive words",
                )
            spans = read_spans(entry, "tokens_positive_eval[0]", phrases[0], caption)
        return ReferredObject(identifier, image, instance, [Published(caption, entry.where, spans)])


def read_spans(entry: Entry, field: str, value: object, caption: str) -> tuple[Span, ...]:
    """Check a list of [begin, end) in a caption; none is the empty list.

    Raises: DataError naming the field for anything else, or a span outside of the caption.
    """
    spans = [] if value is None else value
    if isinstance(spans, list) and all(_is_span(span, len(caption)) for span in spans):
        return tuple((begin, end) for begin, end in spans)
    raise DataError(
        f"{entry.where}: field {field!r} is {shortened(value)}, not a list of [begin, end] in the "
        f"{len(caption)} characters of the caption",
        "positive words",
    )


def _is_span(value: object, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(at, int) and not isinstance(at, bool) for at in value)
        and 0 <= value[0] <= value[1]
        and value[0] < length
        and value[1] <= length + _OVERHANG
    )


def mdetr_image_ids(path: Path, field: str) -> dict[str, set[str]]:
    """Read which of MSCOCO's images a file uses: {split, the last part of its name: image ids}.

    `field` is the config field that names the file.

    Raises: DataError for a missing file or field.
    """
    ids = {
        Entry(content, where).identifier("original_id")
        for where, content in read_items(path, field, "images")
    }
    return {path.stem.rpartition("_")[2]: ids}

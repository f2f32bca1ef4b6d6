"""Reader of Flickr30k Entities for phrase grounding: sentences, boxes, split lists, photographs."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from system.data.formats.coco_entries import enclosing_box
from system.data.formats.entities_files import (
    NOT_VISUAL,
    Boxes,
    Phrase,
    read_boxes,
    read_sentences,
)
from system.data.formats.expressions.phrases import (
    PhraseBoxes,
    PhraseRules,
    PhraseText,
    phrase_expressions,
)
from system.data.prepare.annotations import shortened
from system.data.prepare.captions import checked_caption
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root, require_splits
from system.data.prepare.image_files import StoredImage, safe_image_path
from system.data.prepare.needed_files import FLICKR30K_ENTITIES, FLICKR30K_IMAGES, NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.prepare.split_index import SplitIndex, SplitIndexBuilder
from system.data.shards.faults import Faults
from system.data.shards.masks import mask_from_box
from system.data.shards.schema import ImageRecord, Instance
from system.errors import DataError

#: The types that a phrase with boxes can have, in the order of the paper's tables.
PHRASE_TYPES = (
    "people",
    "clothing",
    "bodyparts",
    "animals",
    "vehicles",
    "instruments",
    "scene",
    "other",
)


_NAME = re.compile(r"\w[\w.-]{,200}")


@dataclass(frozen=True)
class EntitiesSource(ReaderOptions):
    """Flickr30k Entities on disk and how it becomes a benchmark; paths are relative to `root`.

    `splits` maps "train", "val", "test" to lists of image ids. `boxes`: what a phrase with several
    boxes refers to: "merge", the one box that encloses them, "each", every one of them in turn, or
    "any", all of them, of which one is enough to hit. `expressions`: a "phrase" alone, or the
    "sentence" that it stands in, of which its words name the object.
    `corners`: the files count pixels from 1; "pixels" takes both of a box's corners for pixels
    inside of it, "raw" takes the numbers for coordinates, as MDETR's and GLIP's code does.
    `task_by`: "dataset" makes all images one task called `task_name`; "type" makes a task of each
    phrase type in `tasks` (null: all eight), where a row is an image with its phrases of that type.
    """

    sentences: str = "Sentences"
    annotations: str = "Annotations"
    images: str = "flickr30k-images"
    splits: dict[str, str] = field(
        default_factory=lambda: {split: f"{split}.txt" for split in ("train", "val", "test")}
    )
    boxes: PhraseBoxes = "merge"
    expressions: PhraseText = "phrase"
    corners: Literal["pixels", "raw"] = "pixels"
    task_by: Literal["type", "dataset"] = "dataset"
    task_name: str = "flickr30k"
    tasks: tuple[str, ...] | None = None
    caption_rule: str = "diff_prompt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks is not None and self.task_by == "dataset":
            raise ValueError("tasks needs task_by=type; with task_by=dataset set task_name")
        unknown = set(self.tasks or ()) - set(PHRASE_TYPES)
        if unknown:
            raise ValueError(
                f"tasks: {', '.join(sorted(unknown))} is no phrase type; those are "
                f"{', '.join(PHRASE_TYPES)}"
            )

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks in stream order."""
        return (self.task_name,) if self.task_by == "dataset" else self.tasks or PHRASE_TYPES


def read_flickr30k_entities(
    source: EntitiesSource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check Flickr30k for phrase grounding.

    Raises: DataError naming file and field, StorageError.
    """
    root = dataset_root(source.root)
    require_splits(root, {split: {"": path} for split, path in source.splits.items()})
    words: dict[str, Counter[str]] = {split: Counter() for split in source.splits}
    return CheckedDataset(
        {split: _index_split(source, root, split, faults, words[split]) for split in source.splits},
        source.task_names,
        {
            "format": "flickr30k_entities",
            "root": str(root),
            "caption_rule": source.caption_rule,
            "boxes": source.boxes,
            "expressions": source.expressions,
            "task_by": source.task_by,
            "positive_words": {split: dict(counts) for split, counts in words.items() if counts},
        },
    )


def _index_split(
    source: EntitiesSource, root: Path, split: str, faults: Faults, words: Counter[str]
) -> SplitIndex:
    sentences = dataset_folder(root, source.sentences, "sentences")
    annotations = dataset_folder(root, source.annotations, "annotations")
    images = dataset_folder(root, source.images, "images")
    builder = SplitIndexBuilder(split, source.task_names, faults)
    for name, where in _listed(root / source.splits[split], split, faults):
        with faults.row(split, f"{name}.jpg"):
            links = source.follow_links
            path = safe_image_path(images, f"{name}.jpg", where, follow_links=links)
            image = StoredImage(path)
            captions, phrases = read_sentences(sentences / f"{name}.txt")
            boxes = read_boxes(annotations / f"{name}.xml", raw=source.corners == "raw")
            rows = list(_rows(source, name, captions, phrases, boxes, words))
            if not rows:
                builder.skip("without_boxes")
            for row in rows:
                builder.add(image, row)
    return builder.build()


def _listed(path: Path, split: str, faults: Faults) -> Iterator[tuple[str, str]]:
    """Go through a split list's image ids, each with where it stands."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of image ids ({error})") from error
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        name, where = line.strip(), f"{path}, line {number}"
        if not name:
            continue
        if name in seen:
            raise DataError(f"{where}: image {name} is there twice")
        seen.add(name)
        with faults.row(split, where):
            if not _NAME.fullmatch(name):  # files are called after it
                raise DataError(f"{where}: {shortened(name)} is not the id of an image")
            yield name, where


def _rows(
    source: EntitiesSource,
    name: str,
    captions: Sequence[tuple[str, str]],
    phrases: Sequence[Phrase],
    boxes: Boxes,
    words: Counter[str],
) -> Iterator[ImageRecord]:
    """Build an image's row for each task that has a phrase with a box in it."""
    cleaned = tuple(checked_caption(text, source.caption_rule, where) for text, where in captions)
    grounded = [p for p in phrases if p.types[0] != NOT_VISUAL and p.chain in boxes.of_chain]
    for phrase in grounded:
        if phrase.types[0] not in PHRASE_TYPES:
            raise DataError(f"{phrase.where}: {phrase.types[0]!r} is not the type of a phrase")
    # A chain's phrases are the same object, so they share a type: that of the first one.
    types: dict[str, str] = {}
    for phrase in grounded:
        types.setdefault(phrase.chain, phrase.types[0])
    rules = PhraseRules(source.boxes, source.expressions, source.caption_rule)
    for task in source.task_names:
        instances: list[Instance] = []
        indices: dict[str, list[int]] = {}
        for chain, type_ in types.items():
            if source.task_by == "dataset" or type_ == task:
                found = boxes.of_chain[chain]
                own = [enclosing_box(found)] if source.boxes == "merge" else found
                indices[chain] = list(range(len(instances), len(instances) + len(own)))
                instances += [
                    Instance(box, type_, type_, mask_from_box(box, boxes.height, boxes.width))
                    for box in own
                ]
        expressions = tuple(
            expression
            for phrase in grounded
            if phrase.chain in indices
            for expression in phrase_expressions(
                phrase.sentence, [phrase.span], indices[phrase.chain], rules, phrase.where, words
            )
        )
        if expressions:
            yield ImageRecord(
                name,
                f"{name}.jpg",
                b"",
                boxes.width,
                boxes.height,
                cleaned,
                task,
                tuple(instances),
                expressions,
            )


def flickr30k_entities_files(source: EntitiesSource) -> list[NeededFile]:
    """List the files that the options name."""
    return [
        NeededFile("sentences", source.sentences, FLICKR30K_ENTITIES),
        NeededFile("annotations", source.annotations, FLICKR30K_ENTITIES),
        *(
            NeededFile(f"splits.{split}", path, FLICKR30K_ENTITIES)
            for split, path in source.splits.items()
        ),
        NeededFile("images", source.images, FLICKR30K_IMAGES, images=True),
    ]


DATASET = preparer(EntitiesSource, read_flickr30k_entities)
NEEDED = needs(EntitiesSource, flickr30k_entities_files)

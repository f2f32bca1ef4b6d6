"""Flickr30k Entities for phrase grounding, from the files that MDETR and GLIP have of it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from system.data.formats.coco_entries import Box, enclosing_box
from system.data.formats.expressions.mdetr_flickr import (
    GroundedPhrase,
    SentencesOfImage,
    read_flickr_sentences,
)
from system.data.formats.expressions.phrases import (
    PhraseBoxes,
    PhraseRules,
    PhraseText,
    phrase_expressions,
)
from system.data.prepare.captions import checked_caption
from system.data.prepare.dataset import Progress, dataset_folder, dataset_root, require_splits
from system.data.prepare.image_files import StoredImage, safe_image_path
from system.data.prepare.needed_files import FLICKR30K_IMAGES, MDETR_REFS, NeededFile, needs
from system.data.prepare.pipeline import CheckedDataset, ReaderOptions, preparer
from system.data.prepare.split_index import SplitIndex, SplitIndexBuilder
from system.data.shards.faults import Faults
from system.data.shards.masks import mask_from_box
from system.data.shards.schema import ImageRecord, Instance

_OBJECT = "object"  # the files' only category
_SPLIT = "{split}"  # in `images`


@dataclass(frozen=True)
class MdetrFlickrSource(ReaderOptions):
    """MDETR's files of Flickr30k Entities and how they become a benchmark.

    Paths are relative to `root`. `splits` maps "train", "val", "test" to files; in `images`,
    {split} stands for the split's name. `boxes`, `expressions` and `corners` as of
    `EntitiesSource`. Files named mergedGT have one box a phrase, around all of its own, and go with
    boxes=merge alone.
    """

    splits: dict[str, str] = field(
        default_factory=lambda: {
            split: f"mdetr_annotations/final_flickr_separateGT_{split}.json"
            for split in ("train", "val", "test")
        }
    )
    images: str = "flickr30k-images"
    boxes: PhraseBoxes = "merge"
    expressions: PhraseText = "sentence"
    corners: Literal["pixels", "raw"] = "raw"
    task_name: str = "flickr30k"
    caption_rule: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        merged = [path for path in self.splits.values() if "mergedGT" in path]
        if merged and self.boxes != "merge":
            raise ValueError(
                f"boxes={self.boxes}: {merged[0]} has a phrase's boxes merged to one; take the "
                "files named separateGT, or boxes=merge"
            )


def read_flickr30k_mdetr(
    source: MdetrFlickrSource, faults: Faults, progress: Progress | None
) -> CheckedDataset:
    """Read and check the files of all splits.

    Raises: DataError naming file and field, StorageError.
    """
    root = dataset_root(source.root)
    require_splits(root, {split: {"": path} for split, path in source.splits.items()})
    words: dict[str, Counter[str]] = {split: Counter() for split in source.splits}
    return CheckedDataset(
        {split: _index_split(source, root, split, faults, words[split]) for split in source.splits},
        (source.task_name,),
        {
            "format": "flickr30k_mdetr",
            "root": str(root),
            "caption_rule": source.caption_rule,
            "boxes": source.boxes,
            "expressions": source.expressions,
            "positive_words": {split: dict(counts) for split, counts in words.items() if counts},
        },
    )


def _index_split(
    source: MdetrFlickrSource, root: Path, split: str, faults: Faults, words: Counter[str]
) -> SplitIndex:
    images = dataset_folder(root, source.images.replace(_SPLIT, split), "images")
    builder = SplitIndexBuilder(split, (source.task_name,), faults)
    path, option = root / source.splits[split], f"benchmark.options.splits.{split}"
    for described in read_flickr_sentences(path, option, split, faults):
        image = described.image
        with faults.row(split, image.file_name):
            links = source.follow_links
            stored = safe_image_path(images, image.file_name, image.where, follow_links=links)
            row = _row(source, described, words)
            if row.expressions:
                builder.add(StoredImage(stored), row)
            else:
                builder.skip("without_boxes")
    return builder.build()


def _row(
    source: MdetrFlickrSource, described: SentencesOfImage, words: Counter[str]
) -> ImageRecord:
    image = described.image
    rules = PhraseRules(source.boxes, source.expressions, source.caption_rule)
    places: dict[Box, int] = {}  # each box of the image once, whichever sentences have it
    expressions = [
        expression
        for sentence in described.sentences
        for phrase in sentence.phrases
        for expression in phrase_expressions(
            sentence.text, phrase.spans, _found(source, phrase, places), rules, phrase.where, words
        )
    ]
    instances = [
        Instance(box, _OBJECT, _OBJECT, mask_from_box(box, image.height, image.width))
        for box in places
    ]
    captions = (
        checked_caption(one.text, source.caption_rule, one.where) for one in described.sentences
    )
    return ImageRecord(
        image.id,
        image.file_name,
        b"",
        image.width,
        image.height,
        tuple(captions),
        source.task_name,
        tuple(instances),
        tuple(expressions),
    )


def _found(source: MdetrFlickrSource, phrase: GroundedPhrase, places: dict[Box, int]) -> list[int]:
    """The places of a phrase's boxes among the image's; new ones are added to them."""
    own = [enclosing_box(phrase.boxes)] if source.boxes == "merge" else list(phrase.boxes)
    if source.corners == "pixels":
        own = [(x - 1, y - 1, width + 1, height + 1) for x, y, width, height in own]
    return list(dict.fromkeys(places.setdefault(box, len(places)) for box in own))


def flickr30k_mdetr_files(source: MdetrFlickrSource) -> list[NeededFile]:
    """List the files that the options name."""
    folders = dict.fromkeys(source.images.replace(_SPLIT, split) for split in source.splits)
    return [
        *(NeededFile(f"splits.{split}", path, MDETR_REFS) for split, path in source.splits.items()),
        *(NeededFile("images", folder, FLICKR30K_IMAGES, images=True) for folder in folders),
    ]


DATASET = preparer(MdetrFlickrSource, read_flickr30k_mdetr)
NEEDED = needs(MdetrFlickrSource, flickr30k_mdetr_files)

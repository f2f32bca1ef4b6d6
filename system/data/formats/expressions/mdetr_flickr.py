"""Reader of MDETR's JSON of Flickr30k Entities: `final_flickr_<ground truth>_<split>.json`.

Source: https://github.com/ashkamath/mdetr (scripts/pre-training/flickr_combined.py); GLIP's data
sets are these files. MSCOCO's layout, but an entry of `images` is a sentence (`caption`), and
`original_img_id` the number of its image. Its `tokens_positive_eval` are the phrases that have
boxes, each a list of [begin, end) in characters. An annotation is a box of the sentence;
its `tokens_positive` are all phrases that it belongs to. Sizes may be written as texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from system.data.formats.coco_entries import Box, ImageEntry, entry_with_id, read_box, read_image
from system.data.formats.expressions.mdetr_refs import read_spans
from system.data.prepare.annotations import Entry, read_lists, shortened
from system.data.shards.faults import Faults
from system.data.shards.schema import Span
from system.errors import DataError

_NAME = "flickr"  # as the files call the data set


@dataclass(frozen=True, slots=True)
class GroundedPhrase:
    """A phrase of a sentence: its characters, and its boxes (left, top, width, height)."""

    spans: tuple[Span, ...]
    boxes: tuple[Box, ...]
    where: str


@dataclass(slots=True)
class Sentence:
    """A sentence and its phrases that have boxes."""

    text: str
    where: str
    phrases: list[GroundedPhrase] = field(default_factory=list)


@dataclass(slots=True)
class SentencesOfImage:
    """An image and the sentences that describe it, in the order of the file."""

    image: ImageEntry
    sentences: list[Sentence] = field(default_factory=list)


def read_flickr_sentences(
    path: Path, option: str, split: str, faults: Faults
) -> list[SentencesOfImage]:
    """Read a split's file, of which `option` is the config field.

    A sentence whose entry or boxes are broken is a broken row of `split`, by `faults`. Raises:
    DataError naming file, entry and field, also for another data set's file.
    """
    sentences: list[Entry] = []
    boxes: dict[str, list[Entry]] = {}
    for listing, where, content in read_lists(path, option, ("images", "annotations")):
        entry = entry_with_id(_with_numbers(content), where, "id", split, faults)
        if entry is None:
            continue
        if listing == "images":
            if entry.raw("dataset_name") not in (None, _NAME):
                raise DataError(
                    f"{entry.where}: field 'dataset_name' is {shortened(entry.raw('dataset_name'))}"
                    f", not {_NAME!r}: the file holds another data set"
                )
            sentences.append(entry)
        else:
            with faults.row(split, where):
                boxes.setdefault(entry.identifier("image_id"), []).append(entry)
    images: dict[str, SentencesOfImage] = {}
    for entry in sentences:
        with faults.row(split, entry.where):
            image = read_image(entry, "original_img_id")
            sentence = _sentence(entry, image, boxes.get(entry.identifier("id"), []))
            known = images.setdefault(image.id, SentencesOfImage(image))
            if not known.image.agrees_with(image):
                raise DataError(
                    f"{entry.where}: image {image.id} has another file name or size than in "
                    f"{known.image.where}",
                    "image described twice",
                )
            known.sentences.append(sentence)
    return list(images.values())


def _with_numbers(content: object) -> object:
    """An entry of which width and height are numbers: XML, where they are from, has texts."""
    if not isinstance(content, dict):
        return content
    texts = {
        side: int(value)
        for side in ("width", "height")
        if isinstance(value := content.get(side), str) and value.isascii() and value.isdecimal()
        if len(value) < len(str(1 << 32))
    }
    return {**content, **texts}


def _sentence(entry: Entry, image: ImageEntry, boxes: Sequence[Entry]) -> Sentence:
    text = entry.get("caption", str)
    found = Sentence(text, entry.where)
    named = [
        (read_box(box, image), read_spans(box, "tokens_positive", box.raw("tokens_positive"), text))
        for box in boxes
    ]
    phrases = entry.get("tokens_positive_eval", list)
    for number, phrase in enumerate(phrases):
        field_ = f"tokens_positive_eval[{number}]"
        spans = read_spans(entry, field_, phrase, text)
        own = tuple(box for box, of_box in named if set(spans) & set(of_box))
        if not own:
            raise DataError(
                f"{entry.where}: no annotation has a box for the words of field {field_!r}, "
                f"{shortened(phrase)}: fetch the file again",
                "phrase without a box",
            )
        found.phrases.append(GroundedPhrase(spans, own, f"{entry.where}: {field_}"))
    return found

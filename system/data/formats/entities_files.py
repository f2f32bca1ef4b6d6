"""The two files that Flickr30k Entities has for each image: marked-up sentences, and boxes in XML.

Source: Plummer et al. (arXiv 1505.04870), https://github.com/BryanPlummer/flickr30k_entities.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What is known against this parser, entities, begins with a document type: see `read_boxes`.
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser  # nosec B405

from system.data.shards.schema import Span
from system.errors import DataError

Box = tuple[float, float, float, float]

#: Phrases of this type have the chain 0 and were never annotated with boxes.
NOT_VISUAL = "notvisual"

_PHRASE = re.compile(r"\[/EN#(?P<chain>\d+)(?P<types>(?:/[^/\s\]]+)+)\s(?P<text>[^\[\]]*)\]")
# Published boxes are rounded, so they may reach this far beyond the image (pixels).
_BOX_SLACK = 1
# Files of 31,783 images are below 10 KB; one beyond this limit is no annotation.
_MAX_BYTES = 1 << 20
_MAX_SIDE = 1 << 16


@dataclass(frozen=True, slots=True)
class Phrase:
    """One marked phrase: its coreference chain, its types, its words and where it stands.

    `begin` is its first character in its sentence without mark-up.
    """

    chain: str
    types: tuple[str, ...]
    text: str
    where: str
    sentence: str
    begin: int

    @property
    def span(self) -> Span:
        """Its characters in its sentence."""
        return self.begin, self.begin + len(self.text)


@dataclass(frozen=True, slots=True)
class Boxes:
    """An image's size in pixels and, by chain, its boxes (left, top, width, height in pixels)."""

    width: int
    height: int
    of_chain: dict[str, list[Box]]


def read_sentences(path: Path) -> tuple[list[tuple[str, str]], list[Phrase]]:
    """Read `Sentences/<id>.txt`: one sentence per line, phrases as `[/EN#<chain>/<type>... words]`.

    Returns: the sentences without mark-up, each with where it stands, and all phrases in order.
    Raises: DataError naming file and line for a file without sentences or mark-up that is not so.
    """
    sentences: list[tuple[str, str]] = []
    phrases: list[Phrase] = []
    try:
        lines = _read(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error}): fetch the file again") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        plain = _PHRASE.sub(lambda match: match["text"], line)
        if "[/EN#" in plain:
            raise DataError(
                f"{where}: a phrase is not marked as [/EN#<chain>/<type> words]: fetch the file "
                "again"
            )
        sentences.append((plain, where))
        marked = 0  # characters of mark-up so far
        for match in _PHRASE.finditer(line):
            chain, types, text = match["chain"], match["types"][1:].split("/"), match["text"]
            begin = match.start() - marked
            phrases.append(Phrase(chain, tuple(types), text, where, plain, begin))
            marked += len(match[0]) - len(text)
    if not sentences:
        raise DataError(f"{path}: holds no sentence: fetch the file again")
    return sentences, phrases


def read_boxes(path: Path, *, raw: bool = False) -> Boxes:
    """Read `Annotations/<id>.xml`, which is like PASCAL VOC's.

    Corners are pixels counted from 1, both inside the box; `raw` takes them for coordinates as they
    stand, up to a pixel further down right and a pixel smaller. Objects without a box (`scene`,
    `nobndbox`) are passed over. A document type is refused, and with it every entity declaration:
    no published file has one, and with them XML can read other files or take up all memory.
    Raises: DataError naming file and element for anything else.
    """
    try:
        parser = XMLParser(target=_WithoutDocumentType())  # noqa: S314  # nosec B314
        parser.feed(_read(path))
        top: Element = parser.close()
    except _DocumentTypeError as error:
        raise DataError(
            f"{path}: declares a document type, which may define entities: such a file is refused, "
            "fetch it again",
            "unsafe XML",
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: cannot be read as XML ({error}): fetch the file again") from error
    width, height = (_number(top, f"size/{side}", str(path)) for side in ("width", "height"))
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise DataError(f"{path}: element size is {width} x {height}, which no image can have")
    of_chain: dict[str, list[Box]] = {}
    for number, element in enumerate(top.iterfind("object")):
        where = f"{path}: object[{number}]"
        for corners in element.iterfind("bndbox"):
            box = _box(corners, width, height, where, raw)
            for chain in _chains(element, where):
                of_chain.setdefault(chain, []).append(box)
    return Boxes(width, height, of_chain)


class _DocumentTypeError(Exception):
    """The parser met `<!DOCTYPE`."""


class _WithoutDocumentType(TreeBuilder):
    """Builds elements, but stops at a document type, before its declarations are read."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _DocumentTypeError


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error}): fetch Flickr30k Entities again", "missing file"
        ) from error
    if len(content) > _MAX_BYTES:
        raise DataError(f"{path}: is larger than {_MAX_BYTES} bytes: fetch the file again")
    return content


def _chains(element: Element, where: str) -> Iterator[str]:
    names = [(name.text or "").strip() for name in element.iterfind("name")]
    if not names or not all(name.isdecimal() for name in names):
        raise DataError(f"{where}: element name is missing or not the number of a chain")
    yield from dict.fromkeys(names)


def _number(element: Element, path: str, where: str) -> int:
    text = (element.findtext(path) or "").strip()
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise DataError(f"{where}: element {path} is {text!r}, not a whole number")
    return int(number)


def _box(corners: Element, width: int, height: int, where: str, raw: bool) -> Box:
    left, top, right, bottom = (
        _number(corners, name, f"{where}: bndbox") for name in ("xmin", "ymin", "xmax", "ymax")
    )
    inside = (
        min(left, top) >= 1 - _BOX_SLACK
        and right <= width + _BOX_SLACK
        and bottom <= height + _BOX_SLACK
    )
    if not inside or right < left or bottom < top:
        raise DataError(
            f"{where}: element bndbox ({left}, {top}, {right}, {bottom}) lies outside the image of "
            f"{width} x {height} pixels",
            "box outside the image",
        )
    one = 0 if raw else 1
    return (
        float(left - one),
        float(top - one),
        float(right - left + one),
        float(bottom - top + one),
    )

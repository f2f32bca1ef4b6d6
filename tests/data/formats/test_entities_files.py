"""Phrases get other objects' boxes, or a hostile file is read on, if these fail."""

from itertools import pairwise
from pathlib import Path

import pytest

from system.data.formats.entities_files import Boxes, Phrase, read_boxes, read_sentences
from system.errors import DataError

SIZE = "<size><width>500</width><height>333</height><depth>3</depth></size>"


def annotation(objects: str, size: str = SIZE, before: str = "") -> str:
    return f"{before}<annotation><filename>1.jpg</filename>{size}{objects}</annotation>"


def bndbox(xmin: object, ymin: object, xmax: object, ymax: object) -> str:
    return (
        f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
        "</bndbox>"
    )


def test_phrases_and_plain_sentences(tmp_path: Path) -> None:
    path = tmp_path / "1.txt"
    path.write_text(
        "[/EN#283585/people A little girl] in [/EN#283586/clothing/other pink dress] .\n"
        "It is [/EN#0/notvisual she] [sic] .\n\n"
    )
    sentences, phrases = read_sentences(path)
    first, second = f"{path}, line 1", f"{path}, line 2"
    assert sentences == [
        ("A little girl in pink dress .", first),
        ("It is she [sic] .", second),
    ]
    assert phrases == [
        Phrase("283585", ("people",), "A little girl", first, sentences[0][0], 0),
        Phrase("283586", ("clothing", "other"), "pink dress", first, sentences[0][0], 17),
        Phrase("0", ("notvisual",), "she", second, sentences[1][0], 6),
    ]
    for phrase in phrases:
        assert phrase.sentence[phrase.begin :].startswith(phrase.text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no sentence"),
        (b"\n \n", "holds no sentence"),
        (b"A .\n[/EN#1/people A man runs .\n", "line 2: a phrase is not marked as"),
        (b"[/EN#x/people A man] runs .\n", "line 1: a phrase is not marked as"),
        (b"[/EN#1 A man] runs .\n", "line 1: a phrase is not marked as"),
        (b"A \xff man\n", "is not UTF-8 text"),
        (b"A" * (1 << 20) + b"\n", "is larger than"),
    ],
)
def test_sentences_that_are_not_so_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "1.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_sentences(path)


def test_corners_count_from_one_and_belong_to_the_box(tmp_path: Path) -> None:
    """The whole image is 1, 1, 500, 333; an object may stand for several chains."""
    path = tmp_path / "1.xml"
    path.write_text(
        annotation(
            f"<object><name>7</name><name>8</name>{bndbox(1, 1, 500, 333)}</object>"
            f"<object><name>7</name>{bndbox(3, 4, 3, 10)}</object>"
            "<object><name>9</name><scene>1</scene><nobndbox>0</nobndbox></object>"
        )
    )
    assert read_boxes(path) == Boxes(
        500, 333, {"7": [(0, 0, 500, 333), (2, 3, 1, 7)], "8": [(0, 0, 500, 333)]}
    )


BILLION_LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in pairwise("abcdefghi"))
    + "]>"
)
HOSTILE = [
    (BILLION_LAUGHS, "&i;"),
    ('<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/hostname">]>', "&a;"),
    ('<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/a.dtd">', "7"),
    ('<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/hostname"> %p;]>', "7"),
    ("<!DOCTYPE annotation>", "7"),
]


@pytest.mark.parametrize(("before", "name"), HOSTILE)
def test_document_type_is_refused_before_it_is_read(tmp_path: Path, before: str, name: str) -> None:
    path = tmp_path / "1.xml"
    path.write_text(
        annotation(f"<object><name>{name}</name>{bndbox(1, 1, 2, 2)}</object>", before=before)
    )
    with pytest.raises(DataError, match=r"1\.xml: declares a document type") as caught:
        read_boxes(path)
    assert caught.value.kind == "unsafe XML"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>", "cannot be read as XML"),
        ("", "cannot be read as XML"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "cannot be read as XML"),
        (annotation("<object><name>&a;</name></object>"), "cannot be read as XML"),
        (annotation("", size=""), "element size/width is '', not a whole number"),
        (annotation("", size=SIZE.replace("500", "0")), "element size is 0 x 333"),
        (annotation("", size=SIZE.replace("500", "9" * 12)), "element size is 9+ x 333"),
        (annotation(f"<object>{bndbox(1, 1, 2, 2)}</object>"), r"object\[0\]: element name is mis"),
        (
            annotation(f"<object><name>x</name>{bndbox(1, 1, 2, 2)}</object>"),
            r"object\[0\]: element name is missing or not the number",
        ),
        (
            annotation(f"<object><name>1</name>{bndbox(1, 'a', 2, 2)}</object>"),
            r"object\[0\]: bndbox: element ymin is 'a'",
        ),
        (
            annotation(f"<object><name>1</name>{bndbox(1, 1, 502, 2)}</object>"),
            r"object\[0\]: element bndbox \(1, 1, 502, 2\) lies outside the image of 500 x 333",
        ),
        (
            annotation(f"<object><name>1</name>{bndbox(-1, 1, 5, 2)}</object>"),
            "lies outside the image",
        ),
        (annotation(f"<object><name>1</name>{bndbox(5, 1, 4, 2)}</object>"), "lies outside"),
        ("<a>" + " " * (1 << 20) + "</a>", "is larger than"),
    ],
)
def test_annotation_that_is_not_so_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "1.xml"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_boxes(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (read_boxes, read_sentences):
        with pytest.raises(DataError, match=r"1\.xml: cannot be read .* fetch Flickr30k Entities"):
            read(tmp_path / "1.xml")

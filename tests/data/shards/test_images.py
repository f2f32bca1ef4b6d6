"""A broken or hostile image stops the user's run late or kills the machine if these fail."""

import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from system.data.shards.images import check_image, decode_image
from system.errors import DataError
from tests.data.coco_files import png


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a huge size."""
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(bytes(1000)),
        b"IEND",
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def encoded(mode: str, kind: str) -> bytes:
    stream = BytesIO()
    Image.new(mode, (7, 5)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")],
)
def test_any_usual_image_becomes_rgb(mode: str, kind: str) -> None:
    image = decode_image(encoded(mode, kind), "x")
    assert (image.mode, image.size) == ("RGB", (7, 5))


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>not found</html>", png((20, 16))[:-200], encoded("RGB", "JPEG")[:-20]],
    ids=["empty", "text", "truncated png", "truncated jpeg"],
)
def test_what_does_not_decode_is_named(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^bad\.png: the image does not decode"):
        decode_image(data, "bad.png")


@pytest.mark.parametrize("side", [9_000, 60_000], ids=["beyond our bound", "beyond Pillow's"])
def test_image_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(DataError, match=r"^bomb\.png: the image claims .* shrink it$"):
        decode_image(bomb(side, side), "bomb.png")


def test_size_other_than_annotated_is_refused() -> None:
    check_image(png((20, 16)), "x.png", 20, 16)
    with pytest.raises(DataError, match=r"x\.png.*20 x 16 pixels.*annotation says 16 x 20"):
        check_image(png((20, 16)), "x.png", 16, 20)

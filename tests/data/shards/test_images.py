"""A broken or hostile image stops the user's run late or kills the machine if these fail."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from system.data.shards.images import (
    PLAIN,
    Decoding,
    background_colour,
    check_image,
    decode_image,
    web_picture,
)
from system.errors import ConfigError, DataError
from tests.data.coco_files import png


def raw_png(
    size: tuple[int, int], depth: int, colour: int, rows: bytes, transparent: bytes = b""
) -> bytes:
    """A PNG of these packed samples, each row behind its filter byte; `transparent` is its tRNS."""
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0),
        *([b"tRNS" + transparent] if transparent else []),
        b"IDAT" + zlib.compress(rows),
        b"IEND",
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a huge size."""
    return raw_png((width, height), 8, 2, bytes(1000))


def save(image: Image.Image, kind: str, **settings: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def encoded(mode: str, kind: str) -> bytes:
    return save(Image.new(mode, (7, 5)), kind)


def pixels(data: bytes, decoding: Decoding = PLAIN) -> list[Any]:
    """The first row as (red, green, blue)."""
    row: list[Any] = np.asarray(decode_image(data, "x", decoding))[0].tolist()
    return row


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
        ("I;16", "PNG"),
        ("RGBA", "WEBP"),
        ("RGB", "BMP"),
        ("P", "GIF"),
    ],
)
def test_any_usual_image_becomes_rgb(mode: str, kind: str) -> None:
    image = decode_image(encoded(mode, kind), "x")
    assert (image.mode, image.size) == ("RGB", (7, 5))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    """A microscope's or depth camera's picture was white all over."""
    values = (np.arange(256) * 257).astype(np.uint16)[None]  # eight bits, written as sixteen
    grey = save(Image.fromarray(values), "PNG")
    expected = [[value] * 3 for value in range(256)]
    assert pixels(grey) == expected
    row = b"\0" + np.repeat(values[0], 3).astype(">u2").tobytes()
    assert pixels(raw_png((256, 1), 16, 2, row)) == expected


WHITE, BLACK, RED = [255, 255, 255], [0, 0, 0], [255, 0, 0]
MAGENTA = Decoding(background=(255, 0, 255))


def palette_with_alphas() -> bytes:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 0, 0, 0, 0])
    image.putdata([0, 1, 2])
    return save(image, "PNG", transparency=bytes([255, 255, 0]))


TRANSPARENT = {
    "RGBA": save(
        Image.fromarray(np.array([[[255, 0, 0, 255], [0] * 3 + [255], [0] * 4]], np.uint8)), "PNG"
    ),
    "palette": palette_with_alphas(),
    "colour of 8 bits": raw_png(
        (3, 1), 8, 2, bytes([0, 255, 0, 0, 0, 0, 0, 9, 9, 9]), struct.pack(">3H", 9, 9, 9)
    ),
    "colour of 16 bits": raw_png(
        (3, 1),
        16,
        2,
        b"\0" + struct.pack(">9H", 65535, 0, 0, 0, 0, 0, 2313, 2313, 2313),
        struct.pack(">3H", 2313, 2313, 2313),
    ),
}


@pytest.mark.parametrize("data", TRANSPARENT.values(), ids=TRANSPARENT)
def test_transparent_pixels_show_the_background(data: bytes) -> None:
    """Icons are black on transparent, with black beneath: they were black all over."""
    assert pixels(data) == [RED, BLACK, WHITE]
    assert pixels(data, MAGENTA) == [RED, BLACK, [255, 0, 255]]


GREYS = {
    "LA": save(Image.fromarray(np.array([[[0, 255], [255, 255], [0, 0]]], np.uint8)), "PNG"),
    "2 bits": raw_png((3, 1), 2, 0, bytes([0, 0b00_11_01_00]), struct.pack(">H", 1)),
    "4 bits": raw_png((3, 1), 4, 0, bytes([0, 0x0F, 0x70]), struct.pack(">H", 7)),
    "8 bits": raw_png((3, 1), 8, 0, bytes([0, 0, 255, 9]), struct.pack(">H", 9)),
    "16 bits": raw_png((3, 1), 16, 0, struct.pack(">x3H", 0, 65535, 9), struct.pack(">H", 9)),
    "16 bits, alpha": raw_png((3, 1), 16, 4, struct.pack(">x6H", 0, 65535, 65535, 65535, 7, 0)),
}


@pytest.mark.parametrize("data", GREYS.values(), ids=GREYS)
def test_transparent_greys_show_the_background(data: bytes) -> None:
    assert pixels(data) == [BLACK, WHITE, WHITE]
    assert pixels(data, MAGENTA) == [BLACK, WHITE, [255, 0, 255]]


def test_half_transparent_pixels_are_mixed() -> None:
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    for mode in ("RGBA", "RGBa", "LA"):
        stream = save(half.convert("RGBA" if mode == "RGBa" else mode), "PNG")
        assert pixels(stream) == [[127, 127, 127]]


@pytest.mark.parametrize("adobe", [True, False])
def test_four_colour_jpeg_keeps_its_colours(adobe: bool) -> None:
    """Adobe's programs store them inverted: a picture must not come out as its negative."""
    data = save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    if not adobe:
        start = data.index(b"\xff\xee")
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]
    red, green, blue = pixels(data)[0]
    assert red > 250
    assert max(green, blue) < 5


def test_first_picture_of_several_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "MPO"):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        data = save(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
        red, _, blue = pixels(data)[0]
        assert (red > 250, blue < 5) == (True, True), kind


def oriented(orientation: int, kind: str = "PNG") -> bytes:
    """An image of 2 x 1 pixels, red and black, with an orientation tag."""
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(image, kind, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[RED, BLACK]]),
        (2, [[BLACK, RED]]),
        (3, [[BLACK, RED]]),
        (5, [[RED], [BLACK]]),
        (6, [[RED], [BLACK]]),
        (8, [[BLACK], [RED]]),
        (9, [[RED, BLACK]]),
    ],
)
def test_orientation_is_applied_where_it_is_asked_for(orientation: int, expected: Any) -> None:
    """A phone's upright photographs lie on their side without it."""
    data = oriented(orientation)
    image = decode_image(data, "x", Decoding(orient=True))
    assert np.asarray(image).tolist() == expected
    assert np.asarray(decode_image(data, "x")).tolist() == [[RED, BLACK]]
    turned = orientation in range(2, 9)
    assert check_image(data, "x", 2, 1).unoriented == turned
    size = check_image(data, "x", 0, 0, Decoding(orient=True))
    assert (size.width, size.height, size.unoriented) == (*image.size, False)


def test_annotation_of_the_turned_frame_says_so() -> None:
    with pytest.raises(DataError, match="describes it as its orientation tag turns it"):
        check_image(oriented(6), "x", 1, 2)


def test_damaged_orientation_leaves_the_image_as_it_is() -> None:
    data = save(Image.new("RGB", (2, 1)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    assert decode_image(data, "x", Decoding(orient=True)).size == (2, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png((20, 16))[:-200], "the image does not decode"),
        (encoded("RGB", "JPEG")[:-20], "the image does not decode"),
        (bytes(range(256)), r"the image does not decode \(unknown format\)"),
        (b'{"error": "no such key"}', r"""it is a text that begins with '{"error": "no such"""),
        (b"", "the file is empty"),
        (b"\n <!DOCTYPE html><title>404</title>", "is a page in HTML"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "is a Git LFS pointer.*run `git lfs pull`",
        ),
        (encoded("F", "TIFF"), "it is a TIFF file: convert it"),
    ],
)
def test_what_does_not_decode_is_named(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"^bad\.png: .*{message}"):
        decode_image(data, "bad.png")


@pytest.mark.parametrize("mode", ["F", "LAB", "HSV", "I"])
def test_mode_without_a_defined_range_is_refused_by_name(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No format that is read has one today; a newer Pillow may open one so."""
    image = Image.new(mode, (2, 2), -1) if mode == "I" else Image.new(mode, (2, 2))
    monkeypatch.setattr(Image, "open", lambda *_, **__: image)
    with pytest.raises(DataError, match=rf"^x: the image has mode {mode}\b.*8 bits per channel"):
        decode_image(b"", "x")


@pytest.mark.parametrize("side", [9_000, 60_000], ids=["beyond our bound", "beyond Pillow's"])
def test_image_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(DataError, match=r"^bomb\.png: the image claims .* shrink it$"):
        decode_image(bomb(side, side), "bomb.png")


def test_size_other_than_annotated_is_refused() -> None:
    check_image(png((20, 16)), "x.png", 20, 16)
    with pytest.raises(DataError, match=r"x\.png.*20 x 16 pixels.*annotation says 16 x 20"):
        check_image(png((20, 16)), "x.png", 16, 20)


def test_background_is_a_name_or_hexadecimal() -> None:
    assert background_colour("white") == (255, 255, 255)
    assert background_colour("#10ff00") == (16, 255, 0)
    for wrong in ("whit", "#12", "12", "rgb(1,2,3)", "#10ff0080"):
        with pytest.raises(ConfigError, match=r"benchmark\.options\.background"):
            background_colour(wrong)


def test_decoding_survives_the_shard() -> None:
    for decoding in (Decoding(), Decoding((1, 2, 3), orient=True)):
        assert Decoding.of_metadata(decoding.metadata) == decoding
    assert Decoding.of_metadata(None) == Decoding()
    with pytest.raises(DataError):
        Decoding.of_metadata({b"decoding": b"[]"})


def test_pages_show_what_the_model_sees() -> None:
    plain = save(Image.new("RGB", (9, 9), "red"), "JPEG")
    assert web_picture(plain, "x") == (plain, "image/jpeg")
    smaller, kind = web_picture(plain, "x", side=4)
    assert (decode_image(smaller, "x").size, kind) == ((4, 4), "image/jpeg")
    for data, decoding in (
        (oriented(6), Decoding(orient=True)),
        (oriented(6), Decoding()),
        (TRANSPARENT["RGBA"], MAGENTA),
        (TRANSPARENT["palette"], MAGENTA),
        (GREYS["16 bits"], MAGENTA),
        (GREYS["2 bits"], MAGENTA),
    ):
        shown, kind = web_picture(data, "x", decoding)
        assert kind == "image/png"
        assert pixels(shown) == pixels(data, decoding)

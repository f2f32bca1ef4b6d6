"""Decoding of untrusted images: one decoder for preparing, training and reports."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from system.errors import ConfigError, DataError
from system.storage.foreign_json import parse_json

# What Pillow warns of, damaged metadata mostly, names no file, and pixels are checked all the same.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Largest image that is decoded, in pixels: 192 MB as RGB. Photographs of the supported data sets
# stay below 2 million; a bomb of a few KB claims billions.
MAX_PIXELS = 64_000_000

# An MPO, a phone's JPEG of several pictures, opens as JPEG.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")

# What browsers show; see `web_picture`.
_WEB_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
_JPEG_QUALITY = 85

_ORIENTATION = 0x0112
_METADATA_KEYS = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # width and height change places

_PLAIN_MODES = ("RGB", "L", "1", "P")
_ALPHA_MODES = {"LA": "LA", "La": "LA", "RGBA": "RGBA", "RGBa": "RGBA", "PA": "RGBA"}
_OTHER_MODES = ("CMYK", "YCbCr", "RGBX")
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# A grey PNG of 2 or 4 bits has its samples scaled by Pillow, but not its transparent colour.
_SHALLOW = {"L;2": 85, "L;4": 17}

_METADATA = b"decoding"


@dataclass(frozen=True)
class Decoding:
    """How a benchmark's images become RGB; stored in its shards and named in its manifest.

    `background` is the colour (red, green, blue from 0 to 255) that transparent pixels are
    composed over; `orient` turns an image as its orientation tag says, which boxes and masks do
    not expect.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    orient: bool = False

    def to_json(self) -> dict[str, object]:
        """As a manifest's source has it, the background as #rrggbb."""
        return {"background": f"#{bytes(self.background).hex()}", "orient": self.orient}

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """This as the metadata of a shard's schema."""
        return {_METADATA: json.dumps(self.to_json()).encode()}

    @classmethod
    def of_metadata(cls, metadata: Mapping[bytes, bytes] | None) -> Decoding:
        """Read a shard's metadata; shards that say nothing are decoded by the defaults.

        Raises: DataError for metadata that is something else.
        """
        if metadata is None or _METADATA not in metadata:
            return cls()
        try:
            content = parse_json(metadata[_METADATA])
            return cls(background_colour(content["background"]), bool(content["orient"]))
        except (ValueError, LookupError, TypeError) as error:
            raise DataError("its field 'decoding' cannot be read") from error


PLAIN = Decoding()


def background_colour(text: str) -> tuple[int, int, int]:
    """Read `benchmark.options.background`: a colour's name as in CSS, or #rrggbb.

    Raises: ConfigError for anything else.
    """
    if re.fullmatch(r"[a-z]+|#[0-9a-f]{6}", text.lower()):
        try:
            red, green, blue, *_ = ImageColor.getrgb(text)
        except ValueError:
            pass
        else:
            return red, green, blue
    raise ConfigError(
        f"benchmark.options.background: {text!r} is no colour: give a name such as white or "
        "black, or '#rrggbb' with two hexadecimal digits for each of red, green and blue"
    )


@dataclass(frozen=True, slots=True)
class CheckedSize:
    """Width and height of a decoded image, and whether it has an orientation tag not applied."""

    width: int
    height: int
    unoriented: bool


def decode_image(data: bytes, name: str, decoding: Decoding = PLAIN) -> Image.Image:
    """Decode encoded bytes to an RGB image, whole or not at all.

    `name` is the image's name in errors. The claimed size is checked before pixels are decoded.
    16 bits become 8 by their high byte; transparent pixels are composed over the background; of
    several pictures (MPO, animation) the first is taken.
    Returns: a loaded PIL image in mode RGB.
    Raises: DataError for anything that is not a whole image of at most `MAX_PIXELS` pixels.
    """
    with _opened(data, name) as image:
        return _decoded(image, decoding)


def check_image(
    data: bytes, name: str, width: int, height: int, decoding: Decoding = PLAIN
) -> CheckedSize:
    """Decode an image and compare its size with the annotated one, in pixels.

    An annotated size of 0 x 0 means that none was, and any will do.
    Raises: DataError if it does not decode or has another size.
    """
    with _opened(data, name) as image:
        found = _decoded(image, decoding).size
        turned = _orientation(image)
    if (width, height) not in (found, (0, 0)):
        advice = "boxes and masks would not fit it"
        if not decoding.orient and turned in _SIDEWAYS and (height, width) == found:
            advice = (
                "the annotation describes it as its orientation tag turns it: write the image "
                "turned and without the tag"
            )
        raise DataError(
            f"{name}: the image has {found[0]} x {found[1]} pixels but its annotation says "
            f"{width} x {height}: {advice}",
            "image of another size",
        )
    return CheckedSize(*found, turned in _TURNS and not decoding.orient)


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Read an image's width and height as it is stored, without decoding it.

    Raises: DataError for what is no image.
    """
    with _opened(data, name) as image:
        return image.size


def web_picture(
    data: bytes, name: str, decoding: Decoding = PLAIN, side: int | None = None
) -> tuple[bytes, str]:
    """Encode a picture such that browsers show what `decode_image` gives: its bytes, media type.

    `side` bounds its longer side in pixels. Bytes that a browser shows so are left as they are.
    Raises: DataError as `decode_image`.
    """
    with _opened(data, name) as image:
        decoded = _decoded(image, decoding)
        kind = image.format or ""
        same = (
            kind in _WEB_TYPES
            and image.mode in _PLAIN_MODES
            and not _has_alpha(image)
            and _orientation(image) not in _TURNS
            and not getattr(image, "is_animated", False)
        )
    shrinks = side is not None and max(decoded.size) > side
    if same and not shrinks:
        return data, _WEB_TYPES[kind]
    if side is not None:
        decoded.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = BytesIO()
    if shrinks or kind in ("JPEG", "MPO"):
        decoded.save(stream, "JPEG", quality=_JPEG_QUALITY)
        return stream.getvalue(), _WEB_TYPES["JPEG"]
    decoded.save(stream, "PNG")
    return stream.getvalue(), _WEB_TYPES["PNG"]


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """Open an image in a block that decodes it; what goes wrong there is a DataError."""
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(
                    f"{name}: the image claims {width} x {height} pixels, more than the "
                    f"{MAX_PIXELS} that are decoded: remove or shrink it",
                    "too large image",
                )
            yield image
    except DataError:
        raise
    except _ModeError as error:
        raise DataError(
            f"{name}: the image has mode {error}, whose values have no defined range of colours: "
            "convert it to 8 bits per channel",
            "undecodable image",
        ) from error
    except Image.DecompressionBombError as error:  # Pillow's own bound, which comes first
        raise DataError(
            f"{name}: the image claims more than the {MAX_PIXELS} pixels that are decoded "
            f"({error}): remove or shrink it",
            "too large image",
        ) from error
    except UnidentifiedImageError as error:
        raise _not_an_image(data, name) from error
    # A damaged file may raise nearly anything from inside a format's plugin.
    except Exception as error:
        raise DataError(
            f"{name}: the image does not decode ({str(error) or type(error).__name__}): fetch the "
            f"file again or remove it ({', '.join(_FORMATS)} are read)",
            "undecodable image",
        ) from error


class _ModeError(Exception):
    """An image whose mode has no defined meaning as RGB; the message is the mode."""


def _decoded(image: Image.Image, decoding: Decoding) -> Image.Image:
    rgb = _as_rgb(image, decoding.background)
    turn = _TURNS.get(_orientation(image)) if decoding.orient else None
    return rgb if turn is None else rgb.transpose(turn)


def _as_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Convert an opened or loaded image of any mode to RGB.

    Raises: _ModeError for a mode whose values have no defined range.
    """
    tiles = getattr(image, "tile", None)  # gone once it is loaded
    rawmode = tiles[0][3] if tiles else None
    image.load()
    if image.mode in _DEEP_GREY:
        return _deep_grey(image, background)
    if image.mode in _ALPHA_MODES:
        return _composed(image.convert(_ALPHA_MODES[image.mode]), background)
    if image.mode in _PLAIN_MODES and _has_alpha(image):
        transparent = image.info.get("transparency")
        if isinstance(transparent, int) and rawmode in _SHALLOW:
            image.info["transparency"] = transparent * _SHALLOW[rawmode]
        elif isinstance(transparent, tuple) and rawmode == "RGB;16B":
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        return _composed(image.convert("RGBA"), background)
    if image.mode == "RGB":
        return image  # its own pixels: a copy of them takes a tenth of the time of decoding
    if image.mode in (*_PLAIN_MODES, *_OTHER_MODES):
        return image.convert("RGB")
    raise _ModeError(image.mode)


def _has_alpha(image: Image.Image) -> bool:
    """Whether an image has transparent pixels or may have: a channel, a colour, a palette's."""
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else "RGB"
    return (
        image.mode in _ALPHA_MODES
        or image.info.get("transparency") is not None
        or palette.endswith("A")
    )


def _deep_grey(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    values = np.asarray(image).astype(np.int64)  # [H, W]
    if values.min() < 0 or values.max() > 0xFFFF:  # of mode I only
        raise _ModeError(f"{image.mode} and values outside of 16 bits")
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return grey.convert("RGB")
    alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return _composed(Image.merge("LA", (grey, alpha)), background)


def _composed(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Compose an image with an alpha channel over a colour."""
    ground = Image.new("RGB", image.size, background)
    ground.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return ground


def _orientation(image: Image.Image) -> int:
    """Read a loaded image's orientation tag; 1, as it is stored, if there is none to be read."""
    if not image.info.keys() & _METADATA_KEYS:
        return 1
    try:
        found: Any = image.getexif().get(_ORIENTATION, 1)
    # Damaged metadata raises nearly anything; the pixels are sound all the same.
    except Exception:
        return 1
    return found if isinstance(found, int) else 1


# Beginnings of files that are met where an image should be: how they start, what they are.
_LFS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_UNREAD = (
    (rb"II\*\0|MM\0\*", "a TIFF file"),
    (rb".{4}ftyp(heic|heix|mif1|msf1)", "a HEIC file"),
    (rb".{4}ftypavi[fs]", "an AVIF file"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL file"),
    (rb"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (rb"%PDF", "a PDF file"),
)
_TEXT_SHOWN = 40


def _not_an_image(data: bytes, name: str) -> DataError:
    """Say what a file is that no image format knows, and what to do about it."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        return DataError(f"{name}: the file is empty: fetch it again or remove it", "empty file")
    if start.startswith(_LFS):
        return DataError(
            f"{name}: the file is a Git LFS pointer, which stands for an image that was not "
            "fetched: run `git lfs pull` in the data set's repository",
            "Git LFS pointer",
        )
    if re.match(rb"(?i)<!doctype html|<html|<head|<body", start):
        return DataError(
            f"{name}: the file is a page in HTML, as a server sends in place of an image that it "
            "does not give: fetch the image again or remove it",
            "HTML page",
        )
    for pattern, what in _UNREAD:
        if re.match(pattern, data, re.DOTALL):
            return DataError(
                f"{name}: the image does not decode: it is {what}: convert it ("
                f"{', '.join(_FORMATS)} are read)",
                "undecodable image",
            )
    reason = "unknown format"
    text = start.decode("utf-8", "replace").rstrip("\ufffd")
    if text and all(letter.isprintable() or letter in "\t\r\n" for letter in text):
        reason = f"it is a text that begins with {' '.join(text.split())[:_TEXT_SHOWN]!r}"
    return DataError(
        f"{name}: the image does not decode ({reason}): fetch the file again or remove it ("
        f"{', '.join(_FORMATS)} are read)",
        "undecodable image",
    )

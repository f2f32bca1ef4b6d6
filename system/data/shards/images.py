"""Decoding of untrusted images."""

from io import BytesIO

from PIL import Image, UnidentifiedImageError

from system.errors import DataError

# Largest image that is decoded, in pixels: 192 MB as RGB. Photographs of the supported data sets
# stay below 2 million; a bomb of a few KB claims billions.
MAX_PIXELS = 64_000_000

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode encoded bytes to an RGB image, whole or not at all.

    `name` is the image's name in errors. The claimed size is checked before pixels are decoded.
    Returns: a loaded PIL image in mode RGB; orientation tags are ignored, as MSCOCO's boxes do.
    Raises: DataError for anything that is not a whole image of at most `max_pixels` pixels.
    """
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(
                    f"{name}: the image claims {width} x {height} pixels, more than the "
                    f"{max_pixels} that are decoded: remove or shrink it",
                    "too large image",
                )
            return image.convert("RGB")
    except DataError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own bound, which comes first
        raise DataError(
            f"{name}: the image claims more than the {max_pixels} pixels that are decoded "
            f"({error}): remove or shrink it",
            "too large image",
        ) from error
    # A damaged file may raise nearly anything from inside a format's plugin.
    except Exception as error:
        # Pillow's message for an unknown format shows an object's address.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if unknown else str(error) or type(error).__name__
        raise DataError(
            f"{name}: the image does not decode ({reason}): fetch the file "
            f"again or remove it ({', '.join(_FORMATS)} are read)",
            "undecodable image",
        ) from error


def check_image(data: bytes, name: str, width: int, height: int) -> tuple[int, int]:
    """Decode an image and compare its size with the annotated one, in pixels.

    Returns: width and height; an annotated size of 0 x 0 means that none was, and any will do.
    Raises: DataError if it does not decode or has another size.
    """
    found = decode_image(data, name).size
    if (width, height) not in (found, (0, 0)):
        raise DataError(
            f"{name}: the image has {found[0]} x {found[1]} pixels but its annotation says "
            f"{width} x {height}: boxes and masks would not fit it",
            "image of another size",
        )
    return found

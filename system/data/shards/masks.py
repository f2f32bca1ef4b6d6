"""Masks: checked and built from MSCOCO's segmentations (polygons, plain or compressed runs)."""

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from system.data.shards.images import MAX_PIXELS
from system.data.shards.schema import Mask
from system.errors import DataError

# A run length of up to 2^30 pixels takes this many 5-bit characters; more is no real mask.
_MAX_CHARACTERS = 7
_MAX_COORDINATE = 2.0**53  # an integer in JSON may be too large for a float; NaN is not below


def mask_from_segmentation(segmentation: object, height: int, width: int) -> Mask:
    """Turn a `segmentation` field into a mask of the image's size.

    Takes a list of polygons [x0, y0, x1, y1, ...] in pixels (clipped to the image; polygons of
    fewer than three points cover nothing and are dropped), or {"size": [h, w], "counts": ...} with
    counts as a list of run lengths or as MSCOCO's compressed string.
    Raises: DataError (without saying where: the caller adds that) for anything else.
    """
    _check_size(height, width)
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise _wrong("segmentation is neither a list of polygons nor {size, counts}")
    size = segmentation["size"]
    if size != [height, width]:
        raise _wrong(
            f"segmentation.size is {size} but the image has height {height} and width {width}"
        )
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if not all(isinstance(run, int) and run >= 0 for run in counts):
            raise _wrong("segmentation.counts holds something other than run lengths")
        _check_total(sum(counts), height, width)
        counts = coco_mask.frPyObjects(segmentation, height, width)["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    if not isinstance(counts, bytes):
        raise _wrong("segmentation.counts is neither text nor a list of run lengths")
    mask = Mask(height, width, counts)
    _check_total(int(run_lengths(mask).sum()), height, width)
    return mask


def mask_from_box(box: tuple[float, float, float, float], height: int, width: int) -> Mask:
    """Cover a box (left, top, width, height in pixels), for data sets that publish no outlines.

    The box is cut off at the image's edges and, as polygons are, rounded to whole pixels; one that
    is too small for that covers nothing.
    Raises: DataError for an image that is too large to be decoded.
    """
    _check_size(height, width)
    left, top, box_width, box_height = box
    right, bottom = min(left + box_width, width), min(top + box_height, height)
    left, top = max(left, 0.0), max(top, 0.0)
    corners = [left, top, right, top, right, bottom, left, bottom]
    (encoded,) = coco_mask.frPyObjects([corners], height, width)
    return Mask(height, width, bytes(encoded["counts"]))


def run_lengths(mask: Mask) -> NDArray[np.int64]:
    """Unpack compressed counts into run lengths [runs], zeros first.

    The format is LEB128-like (5 bits a character from code 48 on, bit 5 = more follow, bit 4 of the
    last = sign); from the fourth run on a run is stored as the difference to the one two before
    (MSCOCO's maskApi, `rleFrString`). Checked here because the C code trusts its input.
    Raises: DataError for characters or lengths that cannot be.
    """
    codes = np.frombuffer(mask.counts, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63:
        raise _wrong("segmentation.counts holds characters that are not run lengths")
    last = np.flatnonzero((codes & 0x20) == 0)
    if not len(last) or last[-1] != len(codes) - 1:
        raise _wrong("segmentation.counts ends inside a run length")
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise _wrong("segmentation.counts holds a run length that is far too large")
    shift = 5 * (np.arange(len(codes)) - np.repeat(first, lengths))
    runs = np.add.reduceat((codes & 0x1F) << shift, first)
    runs -= np.where(codes[last] & 0x10, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0:
        raise _wrong("segmentation.counts holds a negative run length")
    return runs


def mask_area(mask: Mask) -> int:
    """Count the pixels that a checked mask covers."""
    return int(coco_mask.area({"size": [mask.height, mask.width], "counts": mask.counts}))


def _wrong(message: str) -> DataError:
    return DataError(message, "segmentation")


def _check_size(height: int, width: int) -> None:
    """Guard the C code, which counts pixels in 32 bits."""
    if height * width > MAX_PIXELS:
        raise _wrong(f"the image claims {width} x {height} pixels, more than {MAX_PIXELS}")


def _check_total(total: int, height: int, width: int) -> None:
    if total != height * width:
        raise _wrong(
            f"segmentation.counts covers {total} pixels but the image has {height * width}"
        )


def _from_polygons(polygons: list[object], height: int, width: int) -> Mask:
    flat: list[list[float]] = []
    for polygon in polygons:
        if (
            not isinstance(polygon, list)
            or len(polygon) % 2
            or not {int, float}.issuperset(map(type, polygon))
            or not all(abs(value) < _MAX_COORDINATE for value in polygon)
        ):
            raise _wrong("segmentation holds a polygon that is not a list of x, y pairs")
        if len(polygon) >= 6:
            points = np.clip(np.reshape(polygon, (-1, 2)), 0, [width, height])
            flat.append(points.ravel().tolist())
    if not flat:
        raise _wrong("segmentation holds no polygon of at least three points")
    merged = coco_mask.merge(coco_mask.frPyObjects(flat, height, width))
    return Mask(height, width, bytes(merged["counts"]))

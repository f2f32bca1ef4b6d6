"""Scenes of pictograms: a setting, up to four pictograms on four slots or eight, perhaps a mark.

The mark is a small two-colour sign in a corner, one per super-category, as a site's watermark on
its pictures. Pre-training shows scenes with marks; the tasks' scenes have none.

Every random number comes from a generator that the caller makes from the seed and the scene's
place, so that any scene can be made alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from system.data.embedded.pictograms import Catalogue, raster

SIZE = 64  # pixels of a scene's side
MOST_PICTOGRAMS = 8
MARK_SIZE = 8  # pixels of a mark's side
_MARGIN = 48  # how far a setting's pattern may be shifted

Pixels = npt.NDArray[np.float32]

SETTINGS = (
    "workshop",
    "court",
    "meadow",
    "studio",
    "wardrobe",
    "office",
    "kitchen",
    "parlour",
    "road",
    "market",
    "forest",
    "street",
)
"""Names of the settings; setting k goes with task k of the published order."""


def _colours(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(bytes.fromhex(colour)) for colour in text.split())


_GROUND = _colours(
    "ece2d2 d6ecd6 def0c4 d6def0 f0dce8 e4e4ec f0f0f0 f0e4c8 dadada f6e8dc cce2d0 e0d8d0"
)
_DRAWING = _colours(
    "dcceba c4e0c4 c8e2aa c2cee6 e4c8da d2d2e0 d6e2ea e2d0ae c6c6cc ecd4c4 b6d2bc cec2ba"
)
_MARK_COLOURS = _colours(
    "c81e1e 1e6ec8 148c3c 9628a0 e68200 008c96 5a3c1e 282828 d22878 6e8200 3c3cb4 b45a3c"
)
_MARKS_SEED = 7
# Left and top of each slot, and its side. Up to four pictograms have a quarter of the scene each,
# more have the thirds around the middle: the corners, then top, left, right, bottom.
_QUARTERS = (((0, 0), (32, 0), (0, 32), (32, 32)), 32)
_THIRDS = (((0, 0), (43, 0), (0, 43), (43, 43), (21, 0), (0, 21), (43, 21), (21, 43)), 21)


@dataclass(frozen=True)
class Placed:
    """A pictogram in a scene: its index in the catalogue, its slot, its top-left corner and size.

    Slots 0 to 3 are top left, top right, bottom left, bottom right, then top, left, right, bottom.
    """

    pictogram: int
    slot: int
    x: int
    y: int
    size: int


@dataclass(frozen=True)
class Scene:
    """A picture (SIZE, SIZE, 3), uint8, and what is on it."""

    pixels: npt.NDArray[np.uint8]
    placed: tuple[Placed, ...]
    setting: int
    mark: int | None


def compose(
    rng: np.random.Generator,
    catalogue: Catalogue,
    pictograms: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    setting: int,
    mark: int | None,
) -> Scene:
    """Draw up to eight pictograms of the given sizes on random slots.

    Up to four of them have slots of 32 pixels, more have slots of 21.
    """
    canvas = _background(rng, setting)
    corners, side = _QUARTERS if len(pictograms) <= len(_QUARTERS[0]) else _THIRDS
    slots = rng.permutation(len(corners))[: len(pictograms)]
    placed = []
    for pictogram, size, slot in zip(pictograms, sizes, slots, strict=True):
        left, top = corners[slot]
        y = top + int(rng.integers(0, side - size + 1))
        x = left + int(rng.integers(0, side - size + 1))
        colour, clear = _premultiplied(catalogue.pictograms[pictogram].code, int(size))
        area = canvas[y : y + size, x : x + size]
        canvas[y : y + size, x : x + size] = area * clear + colour
        placed.append(Placed(int(pictogram), int(slot), x, y, int(size)))
    if mark is not None:
        y, x = rng.integers(0, 2, 2) * (SIZE - MARK_SIZE)
        canvas[y : y + MARK_SIZE, x : x + MARK_SIZE] = _marks()[mark]
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    return Scene(pixels, tuple(placed), setting, mark)


def visible_mask(catalogue: Catalogue, placed: Placed) -> npt.NDArray[np.bool_]:
    """Mark where a pictogram covers the scene, (SIZE, SIZE): its alpha is above one half."""
    mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
    alpha = raster(catalogue.pictograms[placed.pictogram].code, placed.size)[..., 3]
    mask[placed.y : placed.y + placed.size, placed.x : placed.x + placed.size] = alpha > 127
    return mask


def _background(rng: np.random.Generator, setting: int) -> Pixels:
    oy, ox = rng.integers(0, _MARGIN, 2)
    tint = rng.normal(0, 3, 3).astype(np.float32)
    area: Pixels = _textures()[setting][oy : oy + SIZE, ox : ox + SIZE] + tint
    return area


@lru_cache(maxsize=1)
def _textures() -> tuple[Pixels, ...]:
    """Draw each setting's two colours in a pattern of its own, with room to shift it."""
    y, x = np.mgrid[0 : SIZE + _MARGIN, 0 : SIZE + _MARGIN]
    patterns = (
        (x // 8) % 2,
        (y // 8) % 2,
        (x // 4 + y // 4) % 2,
        (x // 16 + y // 16) % 2,
        ((x + y) // 8) % 2,
        ((x - y) // 8) % 2,
        (x % 16 < 2) | (y % 16 < 2),
        x % 8 < 2,
        (y % 16 < 8) & (x % 32 < 24),
        (x % 12 - 6) ** 2 + (y % 12 - 6) ** 2 < 9,
        np.abs(x % 16 - 8) + np.abs(y % 16 - 8) < 6,
        (y % 12 < 2) | ((x + (y // 12 % 2) * 8) % 16 < 2),
    )
    textures = []
    for pattern, ground, drawing in zip(patterns, _GROUND, _DRAWING, strict=True):
        drawn = pattern.astype(np.float32)[..., None]
        textures.append(
            np.array(ground, np.float32) * (1 - drawn) + np.array(drawing, np.float32) * drawn
        )
    return tuple(textures)


@lru_cache(maxsize=1)
def _marks() -> tuple[Pixels, ...]:
    """Draw the twelve signs, (MARK_SIZE, MARK_SIZE, 3): 4 x 4 fields in two colours."""
    rng = np.random.default_rng(_MARKS_SEED)
    marks = []
    for index, colour in enumerate(_MARK_COLOURS):
        fields = rng.integers(0, 2, (4, 4))
        fields[0, 0], fields[3, 3] = 1, 0
        drawn = np.kron(fields, np.ones((2, 2)))[..., None]
        other = _MARK_COLOURS[(index + 5) % len(_MARK_COLOURS)]
        marks.append((drawn * np.array(colour) + (1 - drawn) * np.array(other)).astype(np.float32))
    return tuple(marks)


@lru_cache(maxsize=16384)
def _premultiplied(code: str, size: int) -> tuple[Pixels, Pixels]:
    """Return colour times alpha, and 1 - alpha, of a pictogram."""
    pixels: Pixels = raster(code, size).astype(np.float32)
    alpha: Pixels = pixels[..., 3:] / np.float32(255)
    return pixels[..., :3] * alpha, 1 - alpha

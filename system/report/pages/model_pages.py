"""Pages of trained models: the Mask-VAE's reconstructions, the prompt generator's masks."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from system.report.pages.page_shell import model_page

COLUMNS = 12
GAP = 4  # pixels between two masks
GROUND = 96  # grey between them, neither of a mask's two ends


def mask_grid(masks: Tensor, reconstructions: Tensor) -> bytes:
    """A PNG of masks [n, 1, H, H] in [-1, 1], each above its reconstruction, COLUMNS per row.

    Reconstructions keep their greys: the model was unsure of what is neither black nor white.
    """
    count, _, side, _ = masks.shape
    rows = -(-count // COLUMNS)
    step, pair = side + GAP, 2 * side + 3 * GAP
    canvas = np.full((rows * pair + GAP, COLUMNS * step + GAP), GROUND, np.uint8)
    for index in range(count):
        top, left = GAP + index // COLUMNS * pair, GAP + index % COLUMNS * step
        for image in (masks[index, 0], reconstructions[index, 0]):
            canvas[top : top + side, left : left + side] = _grey(image)
            top += step
    return _png(canvas)


def mask_strip(masks: Tensor) -> bytes:
    """A PNG of masks [n, H, H] in [-1, 1], side by side."""
    count, side, _ = masks.shape
    canvas = np.full((side + 2 * GAP, count * (side + GAP) + GAP), GROUND, np.uint8)
    for index in range(count):
        left = GAP + index * (side + GAP)
        canvas[GAP : GAP + side, left : left + side] = _grey(masks[index])
    return _png(canvas)


def mask_page(title: str, summary: dict[str, str], per_task: dict[str, float], grid: bytes) -> str:
    """A self-contained page: the main values by name, the IoU of each task, the grid."""
    encoded = base64.b64encode(grid).decode()
    return model_page("masks.html", title, summary, per_task=per_task, grid=encoded)


def _png(canvas: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(canvas).save(stream, "PNG")
    return stream.getvalue()


def _grey(image: Tensor) -> Any:
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to("cpu").numpy().astype(np.uint8)


def generator_page(
    title: str,
    summary: Mapping[str, str],
    ious: Mapping[str, float],
    texts: Sequence[str],
    paths: Tensor | None,
) -> str:
    """A self-contained page.

    Args:
        title: the run's name.
        summary: the main values by name.
        ious: the IoU of each kind of mask.
        texts: one expression per row of `paths`.
        paths: [n, 1 + steps, H, H] in [-1, 1], the true mask first; None where they were not kept.
    """
    strips = (
        []
        if paths is None
        else [
            (text, base64.b64encode(mask_strip(masks)).decode())
            for text, masks in zip(texts, paths, strict=True)
        ]
    )
    return model_page("generator.html", title, summary, ious=ious, paths=strips)

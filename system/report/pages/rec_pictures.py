"""Pictures of example expressions, small enough to lie inside a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from PIL import Image

from system.data.shards.images import decode_image
from system.storage.run_directory import BOX_EXAMPLES

SIDE = 240  # pixels of the longer side, for photographs; smaller pictures stay as they are


@dataclass(frozen=True)
class Picture:
    """An expression, its image as a data URI, boxes as x, y, width, height in percent."""

    text: str
    task: str
    source: str
    boxes: tuple[tuple[str, tuple[float, ...]], ...]  # what it is (a CSS class), where it is


def stream_pictures(table: pa.Table) -> list[Picture]:
    """The rows of a stream's box_examples.parquet."""
    return [
        _picture(
            row["image"],
            f"row {number} of {BOX_EXAMPLES}",
            row["query"],
            row["task"],
            (row["true_box"], row["before_box"], row["after_box"]),
        )
        for number, row in enumerate(table.to_pylist())
    ]


def _picture(
    data: bytes, where: str, text: str, task: str, boxes: Sequence[Sequence[float] | None]
) -> Picture:
    """A small picture with its true box and the ones before and after learning."""
    image = decode_image(data, where)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    encoded = base64.b64encode(stream.getvalue()).decode()
    named = zip(("true", "before", "after"), boxes, strict=True)
    return Picture(
        text,
        task,
        f"data:image/png;base64,{encoded}",
        tuple((name, _percent(box)) for name, box in named if box is not None),
    )


def _percent(box: Sequence[float]) -> tuple[float, ...]:
    left, top, right, bottom = (round(100 * value, 2) for value in box)
    return left, top, round(right - left, 2), round(bottom - top, 2)

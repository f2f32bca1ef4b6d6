"""Pictures of example expressions, small enough to lie inside a page."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from system.data.images import decode_image
from system.data.loading import read_images
from system.data.manifest import Manifest
from system.stages.alignment_files import AlignmentResult, Example

SIDE = 240  # pixels of the longer side, for photographs; smaller pictures stay as they are


@dataclass(frozen=True)
class Picture:
    """An example, its image as a data URI, boxes as x, y, width, height in percent."""

    example: Example
    source: str
    boxes: tuple[tuple[str, tuple[float, ...]], ...]  # what it is (a CSS class), where it is


def rec_pictures(result: AlignmentResult, manifest: Manifest) -> list[Picture]:
    """The examples of a result with their images from the task shards."""
    split = result.stage["splits"][0]
    found = []
    for example in result.examples:
        (row,) = read_images(manifest.task(example.task).grant(split), [example.row])
        image = decode_image(row.image, f"{row.file_name} in shard {row.shard}")
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "PNG")
        data = base64.b64encode(stream.getvalue()).decode()
        boxes = (("true", example.true), ("before", example.before), ("after", example.after))
        found.append(
            Picture(
                example,
                f"data:image/png;base64,{data}",
                tuple((name, _percent(box)) for name, box in boxes if box is not None),
            )
        )
    return found


def _percent(box: tuple[float, ...]) -> tuple[float, ...]:
    left, top, right, bottom = (round(100 * value, 2) for value in box)
    return left, top, round(right - left, 2), round(bottom - top, 2)

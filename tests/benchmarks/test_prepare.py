"""Memory and speed of preparing MSCOCO: figures for `make bench`, none asserted on a clock."""

import json
import math
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.benchmarks.conftest import Performance
from tests.benchmarks.peak_memory import peak_bytes

SIZES = (2_000, 20_000)
WIDTH, HEIGHT = 160, 120
SUPER_CATEGORIES = ("animal", "food", "vehicle", "person")
OBJECTS, CAPTIONS, POINTS = 7, 5, 24  # an image, an image, a polygon: as in MSCOCO


def write_synthetic_coco(root: Path, count: int) -> None:
    """Write `count` JPEG images and their captions and instances in MSCOCO's files of 2017."""
    rng = np.random.default_rng([count])
    encoded = []
    for _ in range(16):
        coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
        stream = BytesIO()
        Image.fromarray(coarse).resize((WIDTH, HEIGHT)).save(stream, "JPEG", quality=80)
        encoded.append(stream.getvalue())
    (root / "annotations").mkdir(parents=True)
    categories = [
        {"id": index + 1, "name": f"{name} thing", "supercategory": name}
        for index, name in enumerate(SUPER_CATEGORIES)
    ]
    for split, first, number in (("train", 1, count - 200), ("val", count + 1, 200)):
        (root / f"{split}2017").mkdir()
        images: list[dict[str, Any]] = []
        captions: list[dict[str, Any]] = []
        instances: list[dict[str, Any]] = []
        for image_id in range(first, first + number):
            name = f"{image_id:012d}.jpg"
            # No two are the same, byte for byte; of one size in both splits are all, so that what
            # compares the splits' pictures reads each.
            (root / f"{split}2017" / name).write_bytes(encoded[image_id % 16] + b"%012d" % image_id)
            images.append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
            captions += [
                {
                    "id": CAPTIONS * image_id + k,
                    "image_id": image_id,
                    "caption": f"A photograph, number {image_id}, described for the {k}th time.",
                }
                for k in range(CAPTIONS)
            ]
            instances += [
                an_object(rng, image_id, OBJECTS * image_id + k, categories) for k in range(OBJECTS)
            ]
        top = {"info": {}, "licenses": [], "images": images}
        for kind, content in (
            ("captions", {**top, "annotations": captions}),
            ("instances", {**top, "annotations": instances, "categories": categories}),
        ):
            path = root / "annotations" / f"{kind}_{split}2017.json"
            path.write_text(json.dumps(content), "utf-8")


def an_object(
    rng: np.random.Generator, image_id: int, number: int, categories: list[dict[str, Any]]
) -> dict[str, Any]:
    """An ellipse as a polygon; each tenth as compressed run lengths."""
    x, y = rng.uniform(30, WIDTH - 30), rng.uniform(30, HEIGHT - 30)
    a, b = rng.uniform(5, 30, 2)
    angles = [2 * math.pi * k / POINTS for k in range(POINTS)]
    points = [(x + a * math.cos(t), y + b * math.sin(t)) for t in angles]
    segmentation: Any = [[round(value, 2) for point in points for value in point]]
    if number % 10 == 0:
        (run_lengths,) = coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH)
        segmentation = {"size": [HEIGHT, WIDTH], "counts": run_lengths["counts"].decode()}
    return {
        "id": number,
        "image_id": image_id,
        "category_id": categories[number % len(categories)]["id"],
        "bbox": [round(float(v), 2) for v in (x - a, y - b, 2 * a, 2 * b)],
        "area": math.pi * a * b,
        "iscrowd": 0,
        "segmentation": segmentation,
    }


def prepare(root: Path) -> tuple[int, float]:
    """Run `promptide prepare` in a process of its own: its peak memory in bytes, its seconds."""
    arguments = [
        "prepare",
        "benchmark=coco",
        f"benchmark.options.root={root}",
        f"benchmark.options.tasks=[{','.join(SUPER_CATEGORIES)}]",
        f"data_path={root / 'prepared'}",
    ]
    code = f"import tests.benchmarks.test_prepare as t; t.report_peak({arguments!r})"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]), time.perf_counter() - start


def report_peak(arguments: list[str]) -> None:
    """Run a command and write this process's peak resident memory to standard output."""
    from system.app import main

    assert main(arguments) == 0
    sys.stdout.write(f"\n{peak_bytes()}")


@pytest.mark.benchmark
def test_peak_memory_and_images_a_second_of_preparing_mscoco(
    tmp_path: Path, performance: Performance
) -> None:
    """Users of the whole of MSCOCO run out of memory if the peak grows with the images."""
    peaks, rates = [], []
    for count in SIZES:
        root = tmp_path / str(count)
        write_synthetic_coco(root, count)
        peak, seconds = prepare(root)
        peaks.append(peak)
        rates.append(count / seconds)
    small, large = SIZES
    for what, figures, unit in (
        ("peak memory", [peak / 2**20 for peak in peaks], "MB"),
        ("rate", rates, "images/s"),
    ):
        performance.compare(
            f"preparing MSCOCO, {what}, of {large:,} images",
            ours=figures[1],
            other=figures[0],
            unit=unit,
            against=f"of {small:,} images",
        )
    # ten times the images, of which all would be 10 times as much to hold: a bound, not a clock
    assert peaks[1] < 1.3 * peaks[0]

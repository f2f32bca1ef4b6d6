"""Speed and memory of loading: figures for `make bench`, none of them asserted on a clock."""

import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from system.data.prepare.shard_writer import write_shards
from system.data.shards.faults import Faults
from system.data.shards.loading import training_batches
from system.data.shards.manifest import Manifest
from system.data.shards.schema import Expression, ImageRecord, Instance, Mask
from tests.benchmarks.peak_memory import peak_bytes

SIDE = 224


class Photographs:
    """A split of `count` JPEG images of MSCOCO's usual size, of a few distinct contents."""

    def __init__(self, count: int) -> None:
        self.fingerprint = f"photographs {count}"
        self._count = count
        self._images = []
        for seed in range(8):
            coarse = np.random.default_rng([seed]).integers(0, 256, (48, 64, 3), np.uint8)
            stream = BytesIO()
            Image.fromarray(coarse).resize((640, 480)).save(stream, "JPEG", quality=90)
            self._images.append(stream.getvalue())

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{index}.jpg"

    def load(self, index: int) -> ImageRecord:
        mask = Mask(480, 640, b"0")
        return ImageRecord(
            image_id=str(index),
            file_name=self.name(index),
            image=self._images[index % 8],
            width=640,
            height=480,
            captions=("a photograph",),
            task="all",
            instances=(Instance((0, 0, 9, 9), "thing", "all", mask),),
            expressions=(Expression(0, "thing"),),
        )


def resize(image: Image.Image, rng: np.random.Generator | None) -> torch.Tensor:
    """The usual work on an image: bicubic resize, to a float tensor."""
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def read_epoch(root: str, threads: int) -> float:
    """Images a second over one epoch."""
    handle = Manifest.load(root).tasks[0].handle("train")
    start = time.perf_counter()
    images = 0
    for step in training_batches(
        handle,
        batch_size=16,
        micro_batches=2,
        slots=[0, 1],
        seed=[0],
        transform=resize,
        threads=threads,
        shuffle_buffer=32,
    ):
        images += sum(len(micro.rows) for micro in step)
    return images / (time.perf_counter() - start)


def peak_of_reading(root: str) -> int:
    """Peak resident memory, in bytes, of a fresh process that reads one epoch."""
    code = f"import tests.benchmarks.test_loading as t; t.report_peak({root!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def report_peak(root: str) -> None:
    """Read one epoch and write the process's peak resident memory to standard output."""
    read_epoch(root, threads=2)
    sys.stdout.write(str(peak_bytes()))


@pytest.mark.benchmark
def test_images_a_second_by_threads_and_peak_memory_by_split_size(
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Users of large splits run out of memory if the second ratio grows with the split."""
    roots = {}
    for count in (128, 1280):
        roots[count] = str(tmp_path / str(count))
        start = time.perf_counter()
        write_shards(
            {"train": Photographs(count)},
            roots[count],
            benchmark="b",
            tasks=["all"],
            source={},
            faults=Faults("stop"),
        )
        record_property(f"prepare_images_per_second_{count}", count / (time.perf_counter() - start))
    one, two = (read_epoch(roots[1280], threads) for threads in (1, 2))
    small, large = (peak_of_reading(roots[count]) for count in (128, 1280))
    record_property("load_images_per_second_1_thread", one)
    record_property("load_images_per_second_2_threads", two)
    record_property("load_peak_bytes_128", small)
    record_property("load_peak_bytes_1280", large)
    with capsys.disabled():
        sys.stdout.write(
            f"\nloading 640x480 JPEG: {one:.0f} images/s with 1 thread, {two:.0f} with 2 "
            f"(x {two / one:.2f}); peak memory {small / 2**20:.0f} MB for 128 images, "
            f"{large / 2**20:.0f} MB for 1280 (x {large / small:.2f})\n"
        )
    # ten times the images, of which all would be 10 times as much to hold: a bound, not a clock
    assert large < 1.3 * small

"""Speed and memory of loading: figures for `make bench`, none of them asserted on a clock."""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
from PIL import Image

from system.backbones.dual_encoder import PixelTransform
from system.backbones.image_transform import ProcessorTransform
from system.backbones.uint8_transform import Uint8Transform
from system.config.schema import InputConfig, PixelPath
from system.data.prepare.shard_writer import write_shards
from system.data.shards import pixel_cache
from system.data.shards.faults import Faults
from system.data.shards.loading import training_batches
from system.data.shards.manifest import Manifest
from system.data.shards.pixel_cache import PixelCache
from system.data.shards.schema import Expression, ImageRecord, Instance, Mask
from tests.benchmarks.conftest import Performance
from tests.benchmarks.peak_memory import peak_bytes

SIDE = 224
ROUNDS = 3


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


class Speed(NamedTuple):
    """Images per second of an epoch's reading, and per second of the processor's time."""

    per_second: float
    per_core: float


def transform_of(pixels: PixelPath) -> PixelTransform:
    """CLIP's preprocessing by one of the paths."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    inputs = InputConfig(pixels=pixels)
    parts = (CLIPImageProcessorPil(), SIDE, inputs)
    fast = None if pixels == "processor" else Uint8Transform.of(*parts, "none")
    return fast or ProcessorTransform(*parts, "none")


def read_epoch(root: str, threads: int, pixels: PixelPath = "fast", cached: bool = False) -> Speed:
    """How fast an epoch is read, from the images or from their cached pixels."""
    handle = Manifest.load(root).tasks[0].handle("train")
    transform = transform_of(pixels)
    cache = PixelCache.wanted(
        4.0 if cached else None, transform.cache_key, (3, SIDE, SIDE), pytest.fail
    )
    start, worked = time.perf_counter(), time.process_time()
    images = 0
    for step in training_batches(
        handle,
        batch_size=16,
        micro_batches=2,
        slots=[0, 1],
        seed=[0],
        transform=transform,
        threads=threads,
        shuffle_buffer=32,
        cache=cache,
    ):
        images += sum(len(micro.rows) for micro in step)
        floats = step[0].images.dtype.is_floating_point
        assert floats == (pixels == "processor"), "floats before the batch is on its device"
    return Speed(images / (time.perf_counter() - start), images / (time.process_time() - worked))


def read_beside_others(root: str, pixels: PixelPath, start: Any, speeds: Any) -> None:
    """Read an epoch in this process at the same time as others do."""
    transform_of(pixels)
    start.wait(timeout=120)
    speeds.put(read_epoch(root, 1, pixels).per_second)


def two_processes(root: str, pixels: PixelPath) -> float:
    """Images per second of two processes of one thread each."""
    context = multiprocessing.get_context("spawn")
    start, speeds = context.Barrier(2), context.Queue()
    readers = [
        context.Process(target=read_beside_others, args=(root, pixels, start, speeds), daemon=True)
        for _ in range(2)
    ]
    for reader in readers:
        reader.start()
    total = float(sum(speeds.get(timeout=300) for _ in readers))
    for reader in readers:
        reader.join()
    return total


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
def test_peak_memory_by_split_size(
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
    small, large = (peak_of_reading(roots[count]) for count in (128, 1280))
    record_property("load_peak_bytes_128", small)
    record_property("load_peak_bytes_1280", large)
    with capsys.disabled():
        sys.stdout.write(
            f"\npeak memory of loading {small / 2**20:.0f} MB for 128 images, "
            f"{large / 2**20:.0f} MB for 1280 (x {large / small:.2f})\n"
        )
    # ten times the images, of which all would be 10 times as much to hold: a bound, not a clock
    assert large < 1.3 * small


@pytest.mark.benchmark
def test_paths_threads_and_the_cache_of_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, performance: Performance
) -> None:
    """Whether a GPU waits for its images; the best of three rounds, in which all take turns."""
    monkeypatch.setattr(pixel_cache, "cache_folder", lambda: tmp_path / "pixels")
    root = str(tmp_path / "shards")
    paths: tuple[PixelPath, ...] = get_args(PixelPath)
    write_shards(
        {"train": Photographs(192)},
        root,
        benchmark="b",
        tasks=["all"],
        source={},
        faults=Faults("stop"),
    )
    ones: dict[str, list[Speed]] = {path: [] for path in (*paths, "cache")}
    twos: dict[str, list[float]] = {path: [] for path in paths}
    for _ in range(2):  # an epoch drops some images, and others each time
        read_epoch(root, 1, cached=True)
    for _ in range(ROUNDS):
        ones["cache"].append(read_epoch(root, 1, "fast", cached=True))
        for path in paths:
            ones[path].append(read_epoch(root, 1, path))
            twos[path].append(read_epoch(root, 2, path).per_second)
    core = {path: max(speed.per_core for speed in found) for path, found in ones.items()}
    for path, aim in (("fast", ""), ("vector", ">= 3"), ("cache", ">= 20")):
        performance.compare(
            f"640 x 480 JPEG to a batch, per core: {path}",
            ours=core[path],
            other=core["processor"],
            unit="images/s",
            against="the image processor",
            aim=aim,
        )
    for path in paths:
        performance.compare(
            f"two loader threads: {path}",
            ours=max(twos[path]),
            other=max(speed.per_second for speed in ones[path]),
            unit="images/s",
            against="one thread",
            aim=">= 1.8",
        )
    performance.compare(
        "two loader threads beside two processes: fast",
        ours=max(twos["fast"]),
        other=two_processes(root, "fast"),
        unit="images/s",
        against="two processes",
    )

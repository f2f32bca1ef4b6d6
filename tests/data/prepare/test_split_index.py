"""Rows are lost, mixed up or too many for the memory if these fail."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from system.data.prepare.image_files import StoredImage
from system.data.prepare.split_index import SplitIndex, SplitIndexBuilder
from system.data.shards.faults import Faults
from system.data.shards.schema import Expression, ImageRecord, Instance, Mask
from system.errors import DataError
from tests.data.coco_files import png

TASKS = ("a", "b", "c")


def record(number: int, task: str) -> ImageRecord:
    mask = Mask(16, 20, f"{number}".encode())
    return ImageRecord(
        str(number),
        f"{number}.png",
        b"",
        20,
        16,
        (f"caption {number}", "again"),
        task,
        tuple(Instance((0.5, 1.0, 2.0, 3.0), "cat", "animal", mask) for _ in range(number % 3)),
        (Expression(0, "the cat"),) if number % 3 else (),
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(png((20, 16)))
    return path


def build(image: Path, numbers: range, faults: Faults | None = None) -> SplitIndex:
    builder = SplitIndexBuilder("train", TASKS, faults or Faults("stop"))
    for number in numbers:
        builder.add(StoredImage(image), record(number, TASKS[number % 3]))
    return builder.build()


def test_rows_come_back_by_task_and_as_added(image: Path) -> None:
    index = build(image, range(500))
    expected = [record(n, TASKS[n % 3]) for k in range(3) for n in range(k, 500, 3)]
    assert len(index) == 500
    assert index.counts == {"a": 167, "b": 167, "c": 166}
    assert [index.name(place) for place in range(500)] == [r.file_name for r in expected]
    loaded = [index.load(place) for place in range(500)]
    assert loaded == [replace(r, image=image.read_bytes()) for r in expected]


def test_threads_may_read_in_any_order(image: Path) -> None:
    """A wrong row under a right number would pair images with others' captions."""
    index = build(image, range(600))
    order = [place * 7 % 600 for place in range(600)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: index.load(place).image_id, order))
    listed = [index.load(place).image_id for place in range(600)]
    assert found == [listed[place] for place in order]


def test_fingerprint_follows_rows_and_images(image: Path) -> None:
    first = build(image, range(9)).fingerprint
    assert build(image, range(9)).fingerprint == first
    assert build(image, range(10)).fingerprint != first
    image.write_bytes(png((20, 16), 5) + b"\0")
    assert build(image, range(9)).fingerprint != first


def test_memory_does_not_grow_with_the_split(image: Path) -> None:
    peaks = []
    for count in (600, 6000):
        tracemalloc.start()
        index = build(image, range(count))
        for place in range(0, count, 50):
            index.load(place)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # bytes a row: the place of each is kept, its record (about a kilobyte) is not
    assert (peaks[1] - peaks[0]) / (6000 - 600) < 200


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"captions": ("half \ud800",)}, "text"),
        ({"file_name": "\udfff.png"}, "text"),
        ({"width": 1 << 40, "height": 1}, "too large image"),
    ],
)
def test_record_that_no_shard_can_hold_is_the_rows_fault(
    image: Path, changed: dict[str, object], kind: str
) -> None:
    faults = Faults("quarantine")
    builder = SplitIndexBuilder("train", TASKS, faults)
    builder.add(StoredImage(image), replace(record(1, "a"), **changed))  # type: ignore[arg-type]
    builder.add(StoredImage(image.with_name("gone.png")), record(2, "a"))
    builder.add(StoredImage(image), record(3, "a"))
    assert [fault.kind for fault in faults.found] == [kind, "missing image"]
    assert builder.build().counts["a"] == 1
    with pytest.raises(DataError):
        SplitIndexBuilder("train", TASKS, Faults("stop")).add(
            StoredImage(image),
            replace(record(1, "a"), **changed),  # type: ignore[arg-type]
        )


def test_image_that_goes_after_indexing_is_named(image: Path) -> None:
    index = build(image, range(3))
    image.unlink()
    with pytest.raises(DataError, match=r"image\.png: cannot be read"):
        index.load(0)

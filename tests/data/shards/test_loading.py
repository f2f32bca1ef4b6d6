"""Results depend on the cluster's size, or rows are lost or repeated, if these fail."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from system.data.prepare.shard_writer import write_shards
from system.data.shards import loading
from system.data.shards.faults import Faults
from system.data.shards.loading import (
    MicroBatch,
    broken_images,
    read_images,
    read_texts,
    row_selection,
    sample_counts,
    steps_per_epoch,
    training_batches,
)
from system.data.shards.manifest import SplitHandle
from system.data.shards.schema import ImageRecord, records_to_table
from system.data.shards.shard_reader import ShardRow, SplitReader
from system.data.shards.shuffling import slot_shares
from system.errors import ConfigError, DataError
from tests.data.coco_files import train_handles
from tests.data.shards.conftest import Prepared
from tests.data.spoilt_shard import spoil_images


def to_tensor(image: Image.Image, rng: np.random.Generator | None) -> torch.Tensor:
    """Pixels in [0, 1], and a random amount of noise in training."""
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    return pixels if rng is None else pixels + float(rng.random())


def epoch(
    handle: SplitHandle, slots: Sequence[int], seed: Sequence[int] = (1, 2, 3), **changes: Any
) -> list[list[MicroBatch]]:
    settings = {"batch_size": 8, "micro_batches": 4, "threads": 2, "shuffle_buffer": 24} | changes
    return list(training_batches(handle, slots=slots, seed=seed, transform=to_tensor, **settings))


def assert_same(one: MicroBatch, two: MicroBatch) -> None:
    assert (one.slot, one.rows, one.captions, one.image_ids) == (
        two.slot,
        two.rows,
        two.captions,
        two.image_ids,
    )
    assert torch.equal(one.images, two.images)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_global_batches_do_not_depend_on_the_number_of_workers(
    prepared: Prepared, workers: int
) -> None:
    handle, _ = prepared
    alone = epoch(handle, range(4), threads=1)
    per_worker = 4 // workers
    shares = [
        epoch(handle, range(w * per_worker, (w + 1) * per_worker), threads=1 + w)
        for w in range(workers)
    ]
    assert len(alone) == 4
    for step, batch in enumerate(alone):
        joined = [micro for share in shares for micro in share[step]]
        for one, two in zip(batch, joined, strict=True):
            assert_same(one, two)


def test_an_epoch_that_is_gone_on_with_has_the_same_batches(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run skips the steps that were done, and decodes none of their images."""
    handle, _ = prepared
    whole = epoch(handle, [1, 3])
    decoded: list[int] = []
    decode = loading._decode

    def counted(row: ShardRow, *rest: Any) -> torch.Tensor:
        decoded.append(row.row)
        return decode(row, *rest)

    monkeypatch.setattr(loading, "_decode", counted)
    left = epoch(handle, [1, 3], start=3)
    assert len(left) == 1
    for one, two in zip(whole[3], left[0], strict=True):
        assert_same(one, two)
    assert sorted(decoded) == sorted(row for micro in left[0] for row in micro.rows)


def test_each_row_comes_at_most_once_an_epoch_and_few_sit_out(prepared: Prepared) -> None:
    handle, _ = prepared
    seen = Counter(row for step in epoch(handle, range(4)) for m in step for row in m.rows)
    assert set(seen.values()) == {1}
    assert len(seen) == 32
    # over some epochs every row has its turn
    rows = {
        row
        for number in range(8)
        for step in epoch(handle, range(4), seed=(1, number))
        for micro in step
        for row in micro.rows
    }
    assert rows == set(range(37))


def test_rows_carry_their_own_image_and_one_of_its_captions(prepared: Prepared) -> None:
    handle, records = prepared
    captions = set()
    for micro in (m for step in epoch(handle, range(4)) for m in step):
        for at, row in enumerate(micro.rows):
            assert micro.image_ids[at] == records[row].image_id
            assert micro.captions[at] in records[row].captions
            captions.add(records[row].captions.index(micro.captions[at]))
            plain = to_tensor(Image.open(BytesIO(records[row].image)), None)
            noise = micro.images[at] - plain
            assert float(noise.max() - noise.min()) < 1e-6
            expected = np.random.default_rng([1, 2, 3, 3, row]).random()
            assert float(noise.mean()) == pytest.approx(expected, abs=1e-5)
    assert captions == {0, 1, 2}


def test_over_captions_an_epoch_has_each_image_with_each_of_its_captions(
    prepared: Prepared,
) -> None:
    """LPI's released code has a row per caption: fewer samples would be another training."""
    handle, records = prepared
    expected = Counter((row, text) for row, r in enumerate(records) for text in r.captions)
    captions = sample_counts(handle, "captions")
    total = sum(expected.values())
    found = Counter(
        (row, caption)
        for step in epoch(handle, range(1), captions=captions, batch_size=1, micro_batches=1)
        for micro in step
        for row, caption in zip(micro.rows, micro.captions, strict=True)
    )
    assert found == expected
    assert total > len(records)
    batches = epoch(handle, range(4), captions=captions)
    assert len(batches) == total // 8
    apart = [len({row for micro in step for row in micro.rows}) for step in batches]
    assert sum(apart) > 0.85 * 8 * len(batches)  # captions of an image stand far apart


def test_seed_decides_order_captions_and_augmentation(prepared: Prepared) -> None:
    handle, _ = prepared
    one, again, other = (epoch(handle, range(4), seed=s) for s in [(5,), (5,), (6,)])
    for a, b in zip(one, again, strict=True):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    assert [m.rows for step in one for m in step] != [m.rows for step in other for m in step]


def test_shuffling_mixes_row_groups(prepared: Prepared) -> None:
    handle, _ = prepared
    rows = [r for step in epoch(handle, [0], micro_batches=1, batch_size=37) for r in step[0].rows]
    assert sorted(rows) == list(range(37))
    groups = [row // 4 for row in rows]
    assert sum(a != b for a, b in pairwise(groups)) > 12


@given(
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=40), min_size=1, max_size=12),
    st.integers(1, 8),
    st.integers(1, 8),
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
    st.booleans(),
)
def test_slots_partition_the_samples_and_suffice_for_all_steps(
    groups: list[list[int]], slots: int, share: int, seed: list[int], captions: bool
) -> None:
    """`groups` hold the captions of each row: each is a sample, or each row is one."""
    counts = [count if captions else 1 for group in groups for count in group]
    parts = slot_shares([len(group) for group in groups], counts, slots, seed)
    shares = [[(row, p.number) for p in of_slot for row in p.rows] for of_slot in parts]
    rows = sum(counts)
    every = [(row, number) for row, count in enumerate(counts) for number in range(count)]
    assert sorted(sample for of_slot in shares for sample in of_slot) == every
    if rows < share * slots:
        with pytest.raises(DataError, match=r"lower stage\.batch_size"):
            steps_per_epoch(rows, share * slots, slots)
        return
    steps = steps_per_epoch(rows, share * slots, slots)
    assert 0 <= rows - steps * share * slots < share * slots
    assert min(map(len, shares)) >= steps * share


def test_a_worker_reads_only_its_slots_and_holds_few_rows(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, _ = prepared
    read: list[int] = []
    original = SplitReader.read_group

    def counting(self: SplitReader, index: int, columns: Sequence[str]) -> pa.Table:
        read.append(self.group_rows[index])
        return original(self, index, columns)

    monkeypatch.setattr(SplitReader, "read_group", counting)
    epoch(handle, [1])
    assert sum(read) <= 37 // 4 + 2 * 4
    read.clear()
    batches = training_batches(
        handle,
        batch_size=2,
        micro_batches=1,
        slots=[0],
        seed=[0],
        transform=to_tensor,
        threads=1,
        shuffle_buffer=3,
    )
    next(batches)
    batches.close()
    # buffer 3, four decodes under way, at most four steps of 2 ahead, rounded up to row groups
    assert sum(read) <= 3 + 4 + 4 * 2 + 4
    read.clear()
    list(row_selection(handle, range(5, 10), batch_rows=5, transform=to_tensor, threads=1))
    assert sum(read) == 8
    read.clear()
    list(row_selection(handle, [0, 36], batch_rows=9, transform=to_tensor, threads=1))
    assert sum(read) == 5


@pytest.mark.parametrize("batch_rows", [1, 5, 8, 64])
def test_a_whole_split_comes_in_order(prepared: Prepared, batch_rows: int) -> None:
    handle, records = prepared
    chunks = list(
        row_selection(handle, range(37), batch_rows=batch_rows, transform=to_tensor, threads=2)
    )
    assert [chunk.rows[0] for chunk in chunks] == list(range(0, 37, batch_rows))
    assert [row for chunk in chunks for row in chunk.rows] == list(range(37))
    assert [i for chunk in chunks for i in chunk.image_ids] == [r.image_id for r in records]
    captions = [c for chunk in chunks for c in chunk.captions]
    assert captions == [list(r.captions) for r in records] == read_texts(handle)
    images = torch.cat([chunk.images for chunk in chunks])
    expected = [to_tensor(Image.open(BytesIO(record.image)), None) for record in records]
    assert torch.equal(images, torch.stack(expected))


def test_selected_rows_come_in_the_order_asked(prepared: Prepared) -> None:
    handle, records = prepared
    chosen = [30, 2, 17, 2, 36]
    chunks = list(row_selection(handle, chosen, batch_rows=3, transform=to_tensor, threads=1))
    assert [chunk.rows for chunk in chunks] == [[30, 2, 17], [2, 36]]
    assert chunks[1].image_ids == [records[2].image_id, records[36].image_id]
    assert list(row_selection(handle, [], batch_rows=3, transform=to_tensor, threads=1)) == []
    found = read_images(handle, [30, 2, 30])
    assert [row.row for row in found] == [30, 2, 30]
    assert [row.image for row in found] == [records[i].image for i in (30, 2, 30)]


def test_leaving_an_epoch_early_ends_its_threads(prepared: Prepared) -> None:
    handle, _ = prepared
    before = threading.active_count()
    for batches in (
        training_batches(
            handle,
            batch_size=4,
            micro_batches=2,
            slots=[1],
            seed=[0],
            transform=to_tensor,
            threads=2,
            shuffle_buffer=4,
        ),
        row_selection(handle, range(18), batch_rows=2, transform=to_tensor, threads=2),
    ):
        next(batches)
        batches.close()
        assert [t for t in threading.enumerate() if t.name.startswith("promptide-")] == []
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    ("changes", "slots", "error", "message"),
    [
        ({"batch_size": 10}, [0], ConfigError, "10 does not divide into 4 micro-batches"),
        ({"batch_size": 0}, [0], ConfigError, "stage.batch_size: 0"),
        ({"batch_size": 40}, [0], DataError, "task 'food' has 37 training images, fewer than.*40"),
        ({"shuffle_buffer": 0}, [0], ConfigError, "stage.shuffle_buffer: 0"),
        ({}, [4], ConfigError, r"slots \[4\]: each must be one of 0 to 3, once"),
        ({}, [1, 1], ConfigError, r"slots \[1, 1\]"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(
    prepared: Prepared,
    changes: dict[str, Any],
    slots: list[int],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        epoch(prepared[0], slots, **changes)


def test_rows_that_are_not_there_are_refused(prepared: Prepared) -> None:
    handle, _ = prepared
    with pytest.raises(ConfigError, match="batch_rows: 0"):
        row_selection(handle, [0], batch_rows=0, transform=to_tensor, threads=1)
    with pytest.raises(DataError, match="task 'food', split 'train': there is no row 37"):
        read_images(handle, [37])


class _Listed:
    """A split of given records."""

    fingerprint = "listed"

    def __init__(self, records: list[ImageRecord]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        return self._records[index].file_name

    def load(self, index: int) -> ImageRecord:
        return self._records[index]


def test_broken_image_in_a_shard_is_named(prepared: Prepared, tmp_path: Path) -> None:
    _, records = prepared
    root = str(tmp_path)
    manifest = write_shards(
        {"train": _Listed(records[:4])},
        root,
        benchmark="b",
        tasks=["food"],
        source={},
        faults=Faults("stop"),
    )
    handle = manifest.tasks[0].handle("train")
    broken = [*records[:2], replace(records[2], image=records[2].image[:90]), records[3]]
    pq.write_table(records_to_table(broken), handle.shards[0].uri)
    message = rf"{records[2].file_name} in shard .*food-00000\.parquet: the image does not decode"
    with pytest.raises(DataError, match=message):
        epoch(handle, [0], micro_batches=1, batch_size=4)
    with pytest.raises(DataError, match=message):
        list(row_selection(handle, range(4), batch_rows=4, transform=to_tensor, threads=1))


def pixels(image: Image.Image, _: np.random.Generator | None) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()


def test_training_never_meets_them(tmp_path: Path) -> None:
    handles = train_handles(tmp_path)
    handle = handles["food"]
    spoilt = [3, 18]
    names = spoil_images(handle, spoilt)
    settings: dict[str, Any] = {"batch_size": 4, "micro_batches": 2, "slots": (0, 1), "threads": 1}

    def read(some: SplitHandle) -> set[str]:
        batches = training_batches(some, seed=(1,), transform=pixels, shuffle_buffer=8, **settings)
        return {image for step in batches for part in step for image in part.image_ids}

    with pytest.raises(DataError, match=f"{names[0]}|{names[1]}"):
        read(handle)
    broken = broken_images(handle)
    assert list(broken) == spoilt
    assert [fault.name for fault in broken.values()] == [f"food: {name}" for name in names]
    less = replace(handle, without=frozenset(broken))
    assert len(read(less)) == 16  # 19 rows fill four batches
    assert broken_images(less) == {}


def test_batches_are_put_into_pinned_pages_by_the_loader(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pinned in the step, the copy would make the GPU wait for the host each time."""
    handle, _ = prepared
    plain = epoch(handle, [0, 1])
    threads: list[str] = []
    empty = torch.empty

    def recorded(*sizes: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        if pin_memory:
            threads.append(threading.current_thread().name)
        return empty(*sizes, **options)

    monkeypatch.setattr(torch, "empty", recorded)
    pinned = epoch(handle, [0, 1], pin=True)
    assert threads == ["promptide-prefetch"] * 2 * len(plain)
    for one, two in zip(plain, pinned, strict=True):
        for micro, other in zip(one, two, strict=True):
            assert_same(micro, other)
    settings: dict[str, Any] = {"batch_rows": 5, "transform": to_tensor, "threads": 1}
    chunks = list(row_selection(handle, range(9), pin=True, **settings))
    assert len(threads) == 2 * len(plain) + 2
    assert [len(chunk.images) for chunk in chunks] == [5, 4]

"""What a sweep saves by sharing features and by stopping trials early: a ratio, reported only."""

import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.sweep import sweep
from tests.backbones.small_clip import write_small_clip
from tests.benchmarks.conftest import Performance
from tests.data.coco_files import prepare_coco, write_coco
from tests.integration.small_stream import TASKS, WORDS, overrides

pytestmark = [pytest.mark.benchmark, pytest.mark.ray]

RANKS = (8, 4, 2, 1)


def swept(root: Path, name: str, clips: Sequence[Path], scheduler: str) -> tuple[float, int]:
    """Sweep over the ranks, each with its backbone; seconds, and tasks learned by all trials."""
    methods = ",".join(
        f"rank{rank}:['method=lpi','method.rank={rank}','backbone.path={clip}']"
        for rank, clip in zip(RANKS, clips, strict=True)
    )
    tune = f"+tune={{methods:{{{methods}}},scheduler:{scheduler},max_concurrent:1}}"
    started = time.perf_counter()
    sweep(
        overrides(root, name, "cluster.workers=0", "stage.epochs=2", tune),
        None,
        Console(quiet=True),
    )
    seconds = time.perf_counter() - started
    rows = pq.read_table(root / "runs" / name / "trials.parquet").to_pylist()
    return seconds, sum(row["tasks_done"] for row in rows)


def test_sharing_and_stopping(tmp_path: Path, ray_local: None, performance: Performance) -> None:
    """Backbones of different weights have no feature in common: that is a sweep without sharing."""
    source = write_coco(tmp_path / "coco", {"train": 320, "val": 4, "test": 64}, TASKS)
    prepare_coco(source, str(tmp_path / "data" / "small"))
    clips = [write_small_clip(tmp_path / f"clip{n}", WORDS, seed=n) for n in range(len(RANKS))]
    features = tmp_path / "data" / "features"
    # the first sweep of a cluster starts its processes: it is not measured
    swept(tmp_path, "warm", [write_small_clip(tmp_path / "other", WORDS, seed=9)] * 4, "none")
    before = len(list(features.iterdir()))
    alone, tasks_alone = swept(tmp_path, "alone", clips[1:] + clips[:1], "none")
    for_each = len(list(features.iterdir())) - before
    for file in features.iterdir():
        file.unlink()
    shared, tasks_shared = swept(tmp_path, "shared", clips[:1] * len(RANKS), "asha")
    for_all = len(list(features.iterdir()))
    for what, ours, other, unit in (
        ("time", shared, alone, "s"),
        ("splits whose features are computed", for_all, for_each, "splits"),
        ("tasks learned", tasks_shared, tasks_alone, "tasks"),
    ):
        performance.compare(
            f"a sweep of {len(RANKS)} trials, shared features and early stopping: {what}",
            ours=ours,
            other=other,
            unit=unit,
            against="neither",
        )
    assert for_each == len(RANKS) * for_all

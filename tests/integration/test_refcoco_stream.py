"""From the published files of RefCOCO to the figures of a run, by the product's own commands."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.prepare import prepare_benchmark
from system.cli.run import carry_out
from system.config.compose import compose
from tests.backbones.small_clip import write_small_clip
from tests.data.refcoco_files import write_images, write_mdetr, write_unc

pytestmark = pytest.mark.ray

TASKS = ("appliance", "sports")


@pytest.mark.parametrize("form", ["unc", "mdetr"])
def test_two_tasks_of_the_lpi_stream_run_on_refcoco(
    tmp_path: Path, ray_local: None, form: str
) -> None:
    """What a researcher has on disk goes in unchanged, and a figure for each task comes out."""
    root = tmp_path / "downloads"
    benchmark = [
        "benchmark=lpi_refcoco",
        f"benchmark.options.root={root}",
        f"benchmark.options.format={form}",
        f"benchmark.tasks=[{','.join(TASKS)}]",
        f"data_path={tmp_path / 'data'}",
    ]
    if form == "mdetr":
        benchmark.append("benchmark.options.annotations=mdetr_annotations")
    run = [
        *benchmark,
        "run_name=refcoco",
        "evaluation.split=testA",
        "backbone=clip",
        f"backbone.path={tmp_path / 'clip'}",
        f"storage_path={tmp_path / 'runs'}",
        "cluster.workers=0",
        "method.prompt_length=4",
        "stage.epochs=1",
        "stage.batch_size=4",
    ]
    published = compose(benchmark).benchmark.options["tasks"]
    splits = {"train": 4, "val": 1, "testA": 1, "testB": 1}
    instances, refs = write_images(root, splits, published)
    write = write_unc if form == "unc" else write_mdetr
    write(root, instances, refs)
    write_small_clip(tmp_path / "clip", [*published, "the", "no", "left"])

    prepare_benchmark(compose(benchmark), Console(quiet=True))
    carry_out(compose(run), Console(quiet=True))

    manifest = json.loads((tmp_path / "data" / "lpi_refcoco" / "manifest.json").read_text())
    assert [task["name"] for task in manifest["tasks"]] == published
    assert manifest["source"]["split_by"] == "unc"
    metrics = json.loads((tmp_path / "runs" / "refcoco" / "metrics.json").read_text())
    assert metrics["benchmark"]["name"] == "lpi_refcoco"
    assert metrics["tasks"] == list(TASKS)
    assert metrics["replayed_rows"] == 0
    assert not any(math.isnan(metrics["average"][name]) for name in ("t2i_r1", "i2t_r1"))
    log = pq.read_table(tmp_path / "runs" / "refcoco" / "access_log.parquet").to_pylist()
    trained = {row["task"]: row["rows"] for row in log if row["split"] == "train"}
    counts = {
        task: sum(ref["split"] == "train" and _task(ref, published) == task for ref in refs)
        for task in TASKS
    }
    assert trained == counts


def _task(ref: dict[str, int], published: list[str]) -> str:
    return published[ref["category_id"] - 1]

"""MSCOCO as it is distributed, of both years and in Karpathy's split, to a learned stream."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from system import app
from tests.backbones.small_clip import write_small_clip
from tests.data.coco_files import TASKS, write_coco, write_karpathy, write_published_coco
from tests.integration.small_stream import WORDS

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def _of_2014(root: Path) -> list[str]:
    write_published_coco(root, 2014, {"train": 20, "val": 4}, TASKS)
    return ["benchmark=lpi_coco", "benchmark.options.val_share=0.3"]


def _of_2017(root: Path) -> list[str]:
    write_published_coco(root, 2017, {"train": 12, "val": 4}, TASKS)
    return ["benchmark=coco"]


def _karpathy(root: Path) -> list[str]:
    write_coco(root, {"train2014": 12, "val2014": 6})
    write_karpathy(root, {25: "restval", 26: "val", 27: "val"})
    return ["benchmark=coco_karpathy"]


@pytest.mark.parametrize("write", [_of_2014, _of_2017, _karpathy])
def test_prepare_and_run_two_tasks(
    tmp_path: Path, ray_local: None, write: Callable[[Path], list[str]]
) -> None:
    """If this fails, MSCOCO as a user has it on disk does not get through to a result."""
    overrides = [
        *write(tmp_path / "coco"),
        f"benchmark.options.root={tmp_path / 'coco'}",
        f"benchmark.options.tasks=[{','.join(TASKS)}]",
        f"backbone.path={write_small_clip(tmp_path / 'clip', WORDS)}",
        f"storage_path={tmp_path / 'runs'}",
        f"data_path={tmp_path / 'data'}",
        "run_name=two",
        "method.prompt_length=2",
        "stage.epochs=1",
        "stage.batch_size=8",
        "cluster.workers=0",
    ]
    assert app.main(["prepare", *overrides]) == 0
    assert app.main(["run", *overrides]) == 0
    metrics = json.loads((tmp_path / "runs" / "two" / "metrics.json").read_text())
    assert metrics["tasks"] == list(TASKS)
    assert metrics["replayed_rows"] == 0
    assert 0 <= metrics["average"]["i2t_r1"] <= 100

"""MSCOCO as it is distributed, of both years and in Karpathy's split, to a learned stream."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.coco_files import TASKS, write_coco, write_karpathy, write_published_coco
from tests.integration.small_stream import prepare_and_run

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
    root = tmp_path / "coco"
    metrics = prepare_and_run(
        tmp_path, root, *write(root), f"benchmark.options.tasks=[{','.join(TASKS)}]"
    )
    assert metrics["tasks"] == list(TASKS)

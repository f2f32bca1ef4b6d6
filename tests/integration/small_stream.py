"""A stream small enough for tests: three tasks of noise in MSCOCO's format, a random CLIP."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.torch import load_file

from system import app
from system.config.compose import compose
from system.config.schema import ExperimentConfig
from tests.backbones.small_clip import write_small_clip
from tests.data.coco_files import prepare_coco, write_coco

TASKS = ("animal", "food", "person")
#: Keys of metrics.json that name the run or its clock, or follow from these.
LEFT_OUT = ("run", "wall_seconds", "seal")
WORDS = [str(number) for number in range(200)] + ["no", ".", "-", "!"]


def prepare_small_stream(root: Path) -> None:
    """Write data set, task shards and backbone under `root`."""
    source = write_coco(root / "coco", {"train": 40, "val": 4, "test": 12}, TASKS)
    prepare_coco(source, str(root / "data" / "small"))
    write_small_clip(root / "clip", WORDS)


def stream_overrides(root: Path, run_name: str) -> list[str]:
    """Overrides of any method's run on what `prepare_small_stream` wrote."""
    return [
        "benchmark.name=small",
        "benchmark.dataset=coco",
        f"benchmark.tasks=[{','.join(TASKS)}]",
        f"backbone.path={root / 'clip'}",
        f"storage_path={root / 'runs'}",
        f"data_path={root / 'data'}",
        f"run_name={run_name}",
        "stage.epochs=3",
        "stage.batch_size=16",
        "stage.micro_batches=2",  # the same with any number of workers
    ]


def overrides(root: Path, run_name: str, *more: str) -> list[str]:
    """Overrides of LPI's run on what `prepare_small_stream` wrote."""
    return [*stream_overrides(root, run_name), "method.prompt_length=4", *more]


def small_experiment(root: Path, run_name: str, *more: str) -> ExperimentConfig:
    """The config of a run on what `prepare_small_stream` wrote."""
    return compose(overrides(root, run_name, *more))


def figures(root: Path, run_name: str) -> dict[tuple[int, int, str], float]:
    """The accuracy matrix of a run: (trained, evaluated, metric) -> percent, NaN as -1."""
    table = pq.read_table(root / "runs" / run_name / "accuracy_matrix.parquet")
    return {
        (row["trained_index"], row["evaluated_index"], row["metric"]): row["value"]
        if row["reason"] is None
        else -1.0
        for row in table.to_pylist()
    }


def adapters(root: Path, run_name: str) -> list[dict[str, list[Any]]]:
    """The learned tensors of a run as plain lists, task by task: equal only if equal to the bit."""
    folder = root / "runs" / run_name / "adapters"
    return [
        {name: tensor.tolist() for name, tensor in load_file(path).items()}
        for path in sorted(folder.glob("task-*.safetensors"))
    ]


def prepare_and_run(root: Path, raw: Path, *more: str) -> dict[str, Any]:
    """Prepare a data set from its files in `raw`, learn its stream in this process; its metrics.

    The run is called `two`, below `root`; `more` overrides say which data set it is.
    """
    overrides = [
        *more,
        f"benchmark.options.root={raw}",
        f"backbone.path={write_small_clip(root / 'clip', WORDS)}",
        f"storage_path={root / 'runs'}",
        f"data_path={root / 'data'}",
        "run_name=two",
        "method.prompt_length=2",
        "stage.epochs=1",
        "stage.batch_size=8",
        "cluster.workers=0",
    ]
    assert app.main(["prepare", *overrides]) == 0
    assert app.main(["run", *overrides]) == 0
    metrics: dict[str, Any] = json.loads((root / "runs" / "two" / "metrics.json").read_text())
    assert metrics["replayed_rows"] == 0
    assert 0 <= metrics["average"]["t2i_r1"] <= 100
    return metrics

"""A SigLIP learns a stream by the same commands and settings as a CLIP."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from system.cli.prepare import prepare_benchmark
from system.cli.run import carry_out
from system.config.compose import compose
from system.storage.adapters import task_file
from system.stream.evaluate_adapters import evaluate_adapters
from system.stream.preflight import prepared
from tests.backbones.small_siglip import write_small_siglip
from tests.data.coco_files import write_coco

pytestmark = pytest.mark.ray

TASKS = ("animal", "food")
WORDS = [str(number) for number in range(100)] + ["no", ".", "-", "!"]
LENGTH, RANK = 3, 4


def test_two_tasks_of_the_lpi_stream_run_on_siglip(tmp_path: Path, ray_local: None) -> None:
    """Whoever takes SigLIP for CLIP changes one override, and every command still works."""
    write_coco(tmp_path / "coco", {"train2017": 12, "val2017": 6}, TASKS)
    write_small_siglip(tmp_path / "siglip", WORDS)
    experiment = compose(
        [
            "benchmark=coco",
            f"benchmark.options.root={tmp_path / 'coco'}",
            f"benchmark.options.tasks=[{','.join(TASKS)}]",
            f"data_path={tmp_path / 'data'}",
            f"storage_path={tmp_path / 'runs'}",
            "run_name=siglip",
            "backbone=siglip",
            f"backbone.path={tmp_path / 'siglip'}",
            "backbone.gradient_checkpointing=true",
            "cluster.workers=0",
            f"method.prompt_length={LENGTH}",
            f"method.rank={RANK}",
            "stage.epochs=2",
            "stage.batch_size=6",
        ]
    )
    prepare_benchmark(experiment, Console(quiet=True))
    carry_out(experiment, Console(quiet=True))
    evaluate_adapters(experiment, prepared(experiment))

    run = tmp_path / "runs" / "siglip"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["tasks"] == list(TASKS)
    assert metrics["replayed_rows"] == 0
    assert not any(math.isnan(metrics["average"][name]) for name in ("t2i_r1", "i2t_r1"))
    for task in range(len(TASKS)):
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in load_file(run / "adapters" / task_file(task)).items()
        }
        # The widths of the two towers, from the checkpoint alone.
        assert shapes["method.feature.vision"] == (32, RANK)
        assert shapes["method.feature.text"] == (24, RANK)
        assert shapes["method.position.text"] == (LENGTH, RANK)

"""A sweep whose trials train a model's stage: compared by the stage's own metric."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.report import report
from system.cli.sweep import sweep
from system.config.compose import composed_values
from system.engine.model_stage import ModelExperiment
from tests.diff_prompt.mask_files import mask_vae_sweep, prepare_shapes
from tests.report.page_reader import PageReader

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def sweep_overrides(root: Path) -> list[str]:
    return mask_vae_sweep(
        root,
        "run_name=vae",
        "stage.epochs=1",
        "tune.space.stage.vae.channels.grid=[[4,8],[8,16]]",
        "tune.seeds=[0,1]",
    )


def test_a_models_trial_configs_are_compared_by_its_metric(tmp_path: Path, ray_local: None) -> None:
    prepare_shapes(tmp_path)
    sweep(sweep_overrides(tmp_path), None, Console(quiet=True))
    folder = tmp_path / "runs" / "vae"
    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished"] * 4
    for row in rows:
        metrics = json.loads((folder / "trials" / row["trial"] / "metrics.json").read_text())
        assert row["figure"] == metrics["held_out_iou"]
        assert row["trainable_parameters"] == metrics["trainable_parameters"]
        assert row["seconds"] > 0
    means = {
        label: sum(row["figure"] for row in rows if row["setting"] == label) / 2
        for label in ("mask_vae-000", "mask_vae-001")
    }
    best = max(means, key=lambda label: means[label])
    page = PageReader.of(folder / "report.html")
    assert page.tables["comparison"][1][0].startswith(best)
    assert "held_out_iou" in page.tables["comparison"][0]

    values = composed_values([], str(folder / "best.yaml"))
    assert ModelExperiment.from_values(values).stage["vae"]["channels"] == (
        [4, 8] if best == "mask_vae-000" else [8, 16]
    )
    before = [(folder / "trials" / row["trial"] / "metrics.json").stat() for row in rows]
    sweep(sweep_overrides(tmp_path), None, Console(quiet=True))
    after = [(folder / "trials" / row["trial"] / "metrics.json").stat() for row in rows]
    assert [file.st_mtime_ns for file in after] == [file.st_mtime_ns for file in before]
    page_file = folder / "report.html"
    page_file.unlink()
    report(sweep_overrides(tmp_path), None, Console(quiet=True))
    assert PageReader.of(page_file).tables["comparison"] == page.tables["comparison"]

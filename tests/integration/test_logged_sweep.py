"""Trials log where the sweep's command would, or say that they cannot."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.sweep import sweep
from system.errors import TrialsFailedError
from tests.diff_prompt.mask_files import mask_vae_sweep, prepare_shapes

pytestmark = pytest.mark.ray

SEEDS = 2


def overrides(root: Path) -> list[str]:
    return mask_vae_sweep(
        root,
        "run_name=vae",
        "cluster.workers=0",
        "stage.epochs=1",
        f"tune.seeds={list(range(SEEDS))}",
        "tune.max_concurrent=1",  # one process, in which the first trial's log was open before
        "loggers=[wandb]",
    )


def test_a_running_cluster_has_not_the_variables_of_the_command(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs promptide[wandb]")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    prepare_shapes(tmp_path)
    folder = tmp_path / "runs" / "vae"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)  # the workers' parent is there already
    with pytest.raises(TrialsFailedError):
        sweep(overrides(tmp_path), None, Console(quiet=True))
    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["failed"] * SEEDS
    assert all("WANDB_API_KEY" in row["reason"] for row in rows)
    assert not list(folder.glob("trials/*/metrics.json"))

    monkeypatch.delenv("WANDB_API_KEY")
    sweep(overrides(tmp_path), None, Console(quiet=True))
    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished"] * SEEDS
    assert len(list(folder.glob("trials/*/wandb/offline-run-*/*.wandb"))) == SEEDS

"""Weights & Biases: offline without a key, and never where its files get lost."""

from pathlib import Path

import pytest

from system.config.compose import compose
from system.errors import ConfigError
from system.loggers.points import task_points
from system.loggers.run_loggers import RunLoggers, check_loggers
from system.loggers.wandb import CLOCKS
from tests.loggers.logged_stream import CURVES, experiment, logged


def test_wandb_is_offline_without_a_key(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs promptide[wandb]")
    logged(experiment(tmp_path, "wandb"))
    files = sorted((tmp_path / "logged" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2  # of the two starts, with one id: `wandb sync` joins them
    assert len({file.name for file in files}) == 1
    first, second = (file.read_bytes() for file in files)
    assert b"train/loss_contrastive" in first
    assert b"eval/t2i_r1" in second
    assert b"final/average_t2i_r1" in second


def test_offline_files_are_not_left_where_they_get_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's working directory goes with it; only a log on the server needs no files."""
    pytest.importorskip("wandb", reason="needs promptide[wandb]")
    storage = f"file://{tmp_path}/runs"
    of = compose([f"storage_path={storage}", "run_name=logged", "loggers=[wandb]"])
    with pytest.raises(ConfigError, match=f"storage_path={storage}.*WANDB_DIR"):
        check_loggers(of)
    with pytest.raises(ConfigError, match="WANDB_DIR"), RunLoggers(of, CURVES):
        pass  # a worker of a sweep that has other variables than what checked it
    monkeypatch.setenv("WANDB_MODE", "online")
    check_loggers(of)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    check_loggers(of)
    with RunLoggers(of, CURVES):
        pass
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_values_of_held_out_benchmarks_have_an_axis() -> None:
    """Without one the first of them would end this logger for the rest of the run."""
    held_out = {"held_out": "flowers", "metric": "t2i_r1", "value": 40.0, "trained_index": 0}
    (point,) = task_points({"log": [], "held_out": [held_out]}, [], 0, 1)
    assert CLOCKS[point.name.partition("/")[0]] == "tasks"

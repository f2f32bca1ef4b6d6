"""Every registered method goes through a whole run by the product's own commands, in process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.torch import load_file

from system.cli.run import carry_out
from system.config.compose import compose
from system.config.schema import ExperimentConfig
from system.engine.epochs import EpochLoop
from system.errors import DataError, StorageError
from system.methods.base import methods_on
from system.methods.sharing import method_kind
from system.stream.evaluate_adapters import evaluate_adapters
from system.stream.preflight import check_experiment, prepared
from tests.integration.small_stream import adapters, figures, prepare_small_stream, stream_overrides

pytestmark = pytest.mark.ray

NAMES = methods_on("retrieval")
TASKS = ("animal", "food")
TRAIN_ROWS, EPOCHS = 40, 2
#: Sizes that fit the small backbone, for whatever method has such a setting.
SMALL = {"prompt_length": 2, "text_prompt_length": 2, "pool_size": 4, "top_k": 2}

Finish = Callable[[str], Path]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """Data set and backbone of all runs here."""
    folder = tmp_path_factory.mktemp("methods")
    prepare_small_stream(folder)
    return folder


@pytest.fixture(scope="module")
def finish(root: Path) -> Finish:
    """Gives the directory of a method's undisturbed run; each method runs once."""
    done: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in done:
            carry_out(experiment(root, name, name), Console(quiet=True))
            done[name] = root / "runs" / name
        return done[name]

    return run


def experiment(root: Path, name: str, run_name: str, *more: str) -> ExperimentConfig:
    """Two tasks of the small stream in the driver's process, with the method's own YAML."""
    section = compose([f"method={name}"]).method
    return compose(
        [
            *stream_overrides(root, run_name),
            f"benchmark.tasks=[{','.join(TASKS)}]",
            f"method={name}",
            *(f"method.{key}={value}" for key, value in SMALL.items() if key in section),
            "cluster.workers=0",
            f"stage.epochs={EPOCHS}",
            "stage.optimiser.learning_rate=0.01",
            *more,
        ]
    )


def metrics_of(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


@pytest.mark.parametrize("name", NAMES)
def test_a_method_learns_a_stream(root: Path, finish: Finish, name: str) -> None:
    """A method that is registered but fails in a run would be found out after hours of training."""
    run, method = finish(name), method_kind({"name": name}, "retrieval")
    metrics = metrics_of(run)
    assert (metrics["method"], metrics["tasks"]) == (name, list(TASKS))
    assert all(0 <= value <= 100 for value in metrics["average"].values())
    assert (metrics["routing"] is None) == (not method.needs_router)
    log = pq.read_table(run / "training_log.parquet").to_pylist()
    epochs = {"nothing": 0, "task": EPOCHS * len(TASKS), "all": EPOCHS}[method.trains_on]
    assert len(log) == epochs
    assert (metrics["trainable_parameters"] > 0) == (epochs > 0)
    names = {"adapter.json", *(f"task-{task:04d}.safetensors" for task in range(len(TASKS)))}
    assert {path.name for path in (run / "adapters").iterdir()} == names
    assert (run / "report.html").stat().st_size > 0


@pytest.mark.parametrize("name", NAMES)
def test_only_a_method_that_declares_it_reads_past_tasks_again(finish: Finish, name: str) -> None:
    """Replay is the one thing the comparison must not have without saying so."""
    metrics = metrics_of(finish(name))
    declared = method_kind({"name": name}, "retrieval").trains_on == "all"
    assert metrics["replays"] == declared
    assert metrics["replayed_rows"] == (TRAIN_ROWS * EPOCHS if declared else 0)


@pytest.mark.parametrize("name", NAMES)
def test_saved_adapters_give_the_figures_of_the_run(root: Path, finish: Finish, name: str) -> None:
    """What is handed to a colleague is worth what the table says."""
    known = figures(root, finish(name).name)
    own = experiment(root, name, name)
    last = [row for row in evaluate_adapters(own, prepared(own)).rows if row.trained_index >= 0]
    assert {row.trained_index for row in last} == {len(TASKS) - 1}
    for row in last:
        value = -1.0 if row.reason is not None else row.value
        assert known[row.trained_index, row.evaluated_index, row.metric] == value, row


@pytest.mark.parametrize("name", NAMES)
def test_shared_parameters_are_on_disk_once(finish: Finish, name: str) -> None:
    """Twelve tasks of a fine-tuned ViT-B/16 would be seven gigabytes otherwise."""
    method = method_kind({"name": name}, "retrieval")
    first, newest = (
        [key for key in load_file(path) if key.startswith("method.")]
        for path in sorted((finish(name) / "adapters").glob("task-*.safetensors"))
    )
    assert bool(newest) == (method.trains_on != "nothing")
    assert bool(first) == (not method.shares_parameters)


def test_joint_training_has_no_forgetting_and_says_why(root: Path, finish: Finish) -> None:
    """A zero there would read as a result."""
    metrics = metrics_of(finish("joint"))
    for figure in ("forgetting", "forward_transfer", "published_average"):
        assert set(metrics[figure].values()) == {None}
        assert "not evaluated" in metrics["undefined"][f"{figure}.t2i_r1"]
    trained = {trained for trained, _, _ in figures(root, "joint")}
    assert trained == {-1, len(TASKS) - 1}
    page = (finish("joint") / "report.html").read_text()
    assert "declared by the method: an upper bound" in page
    assert "The method declares it" in page


def test_zero_shot_is_the_frozen_backbone(root: Path, finish: Finish) -> None:
    """The figure that all others are compared with, whatever the stage would train."""
    finish("zero_shot")
    found = figures(root, "zero_shot")
    last = {key: value for key, value in found.items() if key[0] == len(TASKS) - 1}
    assert last
    for (trained, task, metric), value in last.items():  # both are searched among all tasks
        assert value == found[-1, task, metric], (trained, task, metric)


class StoppedError(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("name", ["fine_tune", "joint", "ewc"])
def test_a_stopped_run_with_shared_parameters_goes_on(
    root: Path, finish: Finish, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Stopped in the second task: what the first one taught is neither lost nor learned twice."""
    finish(name)
    config = experiment(root, name, f"{name}-stopped")
    save = EpochLoop.save

    def stop(loop: EpochLoop) -> None:
        if loop.training.origin["index"] == 1:  # before its first checkpoint: only adapters
            raise StoppedError
        save(loop)

    monkeypatch.setattr(EpochLoop, "save", stop)
    with pytest.raises(StoppedError):
        carry_out(config, Console(quiet=True))
    monkeypatch.undo()
    if name == "joint":
        with pytest.raises(StorageError, match=r"1 of 2 tasks.*'joint' learns at the last one"):
            evaluate_adapters(config, prepared(config))
    carry_out(config, Console(quiet=True))
    assert adapters(root, f"{name}-stopped") == adapters(root, name)
    assert figures(root, f"{name}-stopped") == figures(root, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joint", "lora", "ewc"])
def test_two_workers_learn_the_same(root: Path, finish: Finish, name: str) -> None:
    """Weights that are not the method's own modules must still be averaged between workers."""
    finish(name)
    config = experiment(root, name, f"{name}-2", "cluster.workers=2")
    carry_out(config, Console(quiet=True))
    assert adapters(root, f"{name}-2") == adapters(root, name)
    assert figures(root, f"{name}-2") == figures(root, name)


def test_a_batch_must_fit_into_what_the_method_trains_on(root: Path) -> None:
    """All tasks together may fill a batch that none does, and zero-shot needs none."""
    large = f"stage.batch_size={TRAIN_ROWS * len(TASKS)}"
    for name in ("joint", "zero_shot"):
        check_experiment(experiment(root, name, "large", large))
    with pytest.raises(DataError, match="'animal' has 40 training images, fewer than the batch"):
        check_experiment(experiment(root, "fine_tune", "large", large))
    with pytest.raises(DataError, match=r"'animal \+ food' has 80 training images"):
        check_experiment(experiment(root, "joint", "large", "stage.batch_size=160"))

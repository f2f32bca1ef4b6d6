"""Trials of a model's stage: the options of a sweep over it, and a trial's score."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.drive import Learned, Run, Watch
from actors.model_run import ModelRun
from system.engine.model_stage import ModelExperiment
from system.errors import ConfigError, DataError, PromptideError, TrialsFailedError
from system.loggers.run_loggers import RunLoggers, destinations
from system.storage.data_directory import DataDirectory
from system.storage.files import Folder
from system.storage.run_directory import METRICS, RunDirectory
from tests.diff_prompt.mask_files import mask_vae_sweep, prepare_shapes
from tests.loggers.event_files import scalars
from tuning.report.analysis import BEST, write_analysis, write_description
from tuning.report.sweep_page import write_sweep_page
from tuning.run.model_trial import SECONDS, ModelTrials
from tuning.run.pruner import PruningRule
from tuning.run.sweep_checks import check_sweep
from tuning.run.trial import run_trial
from tuning.run.trial_kind import Reports, TrialRecord
from tuning.run.trial_table import TrialTable
from tuning.search.sweep_plan import SweepPlan, Trial


def plan(root: Path, *more: str) -> SweepPlan:
    return SweepPlan.compose(mask_vae_sweep(root, *more))


def experiment(sweep: SweepPlan) -> ModelExperiment:
    (config,) = sweep.trial_configs(sweep.bases)
    trial = sweep.trial(config, 0)
    assert isinstance(trial.experiment, ModelExperiment)
    return trial.experiment


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.metric=[t2i_r1]", "stage 'mask_vae' goes by held_out_iou"),
        ("tune.scheduler=asha", "evaluated once, at its end: use tune.scheduler=none"),
        ("tune.methods={lpi:[]}", r"tune\.methods is for sweeps over streams"),
        ("tune.learning_rates={default:[0.1]}", r"tune\.learning_rates is for sweeps over"),
    ],
)
def test_what_streams_alone_have_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(tmp_path, override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "tune.space.stage.vae.chanels.grid=[1]",
            "config 'mask_vae-000' of the sweep.*chanels",
        ),
        ("tune.space.stage.epochs.grid=[0]", "config 'mask_vae-000' of the sweep.*epochs=0"),
        ("stage.batch_size=64", "config 'mask_vae-000' of the sweep.*24 object masks"),
    ],
)
def test_a_wrong_trial_config_is_found_before_the_first_trial(
    tmp_path: Path, override: str, message: str
) -> None:
    prepare_shapes(tmp_path)
    with pytest.raises(PromptideError, match=message):
        check_sweep(plan(tmp_path, override))


def test_missing_data_is_reported_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prepare"):
        check_sweep(plan(tmp_path))


class Stage:
    """A stage whose training takes no time."""

    metrics = ("a", "b.c")
    logged = ("a", "b")

    def __init__(self) -> None:
        self.there = False
        self.trained = 0

    def place(self, experiment: ModelExperiment) -> Folder:
        return DataDirectory.of(experiment).model(str(experiment.stage["name"]), "0")

    def before(self, experiment: ModelExperiment) -> Sequence[ModelExperiment]:
        return ()

    def finished(self, experiment: ModelExperiment) -> bool:
        return self.there

    def loop(self, config: dict[str, Any]) -> None:
        raise NotImplementedError

    def report(self, experiment: ModelExperiment, tell: Any) -> None:
        metrics = {"a": 0.5, "b": {"c": 0.7}, "training_log": [{"epoch": 0, "loss": 2.0}]}
        RunDirectory.of(experiment).folder.write_json(METRICS, metrics)


def use(
    monkeypatch: pytest.MonkeyPatch, stages: Mapping[str, Stage], train: Callable[..., None]
) -> None:
    """Let trials find these stages, by their names, and train them so."""
    for module in ("tuning.run.model_trial", "actors.model_run"):
        monkeypatch.setattr(f"{module}.stage_of", lambda one: stages[one.stage["name"]])

    def drive(run: Run, watch: Watch, learned: Learned, say: Callable[[str], None]) -> None:
        assert isinstance(run, ModelRun)
        assert isinstance(run.stage, Stage)
        started = time.perf_counter()
        train(run.experiment, run.stage)
        run.seconds = time.perf_counter() - started

    monkeypatch.setattr("actors.drive.drive", drive)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()

    def train(_: ModelExperiment, trained: Stage) -> None:
        trained.trained += 1

    use(monkeypatch, {"mask_vae": stage}, train)
    return stage


def run(experiment: ModelExperiment, *metric: str) -> list[Any]:
    reports: Reports = queue.Queue()
    config = {
        "experiment": experiment.to_dict(),
        "metric": metric,
        "tasks": 1,
        "logs": destinations(experiment),
    }
    run_trial(config, None, reports)
    return list(reports.queue)


def test_the_score_is_the_mean_of_the_named_metrics(tmp_path: Path, stage: Stage) -> None:
    one = experiment(plan(tmp_path, "tune.metric=[a]"))
    assert run(one, "a", "b.c") == [{"score": 0.6, "tasks_done": 1, "done": True}]
    assert stage.trained == 1
    events = scalars(Path(RunDirectory.of(one).folder.uri) / "tensorboard")
    assert events == [
        ("train/loss", 1, 2.0),
        ("final/a", 1, 0.5),
        ("final/b_c", 1, pytest.approx(0.7)),
    ]
    record = ModelTrials().record(one, ("a", "b.c"))
    assert (record.scores, record.finished) == ([0.6], True)


def test_seconds_are_those_of_one_whole_training(tmp_path: Path, stage: Stage) -> None:
    """The rest of an interrupted one, or finding a model that was there, would look fast."""
    one = experiment(plan(tmp_path, "tune.metric=[a]"))
    folder = RunDirectory.of(one).folder
    run(one, "a")
    assert folder.read_json(SECONDS)["seconds"] >= 0
    run(one, "a")  # goes on after an interruption
    assert folder.read_json(SECONDS)["seconds"] is None
    assert ModelTrials().columns(one, ModelTrials().record(one, ("a",)))["seconds"] is None
    stage.there = True
    run(one, "a")
    assert stage.trained == 2


def test_what_a_model_builds_on_is_trained_first_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every trial over a generator's settings would else train the autoencoder below it anew."""
    below, above = Stage(), Stage()
    order: list[str] = []

    def train(trained: ModelExperiment, stage: Stage) -> None:
        order.append(trained.stage["name"])
        stage.there = stage is below

    def before(one: ModelExperiment) -> Sequence[ModelExperiment]:
        return [one.with_stage({"name": "prompt_generator"})]

    monkeypatch.setattr(above, "before", before)
    use(monkeypatch, {"prompt_generator": below, "mask_vae": above}, train)
    one = experiment(plan(tmp_path, "tune.metric=[a]"))
    run(one, "a")
    run(one, "a")
    assert order == ["prompt_generator", "mask_vae", "mask_vae"]


def test_the_logs_of_two_stages_are_never_open_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights & Biases ends all logs of a process with the first: the trial's own would be lost."""
    below, above = Stage(), Stage()
    happened: list[str] = []

    class Noted(RunLoggers):
        def __enter__(self) -> Noted:
            happened.append("opened")
            return super().__enter__()

        def __exit__(self, *of: Any) -> None:
            happened.append("closed")
            super().__exit__(*of)

    monkeypatch.setattr(above, "before", lambda one: [one.with_stage({"name": "prompt_generator"})])
    use(monkeypatch, {"prompt_generator": below, "mask_vae": above}, lambda *_: None)
    monkeypatch.setattr("actors.drive.RunLoggers", Noted)
    run(experiment(plan(tmp_path, "tune.metric=[a]")), "a")
    assert happened == ["opened", "closed"] * 2


def test_trials_that_start_together_train_what_they_share_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits: beside the first it would take twice the machine for the same model."""
    below, above = Stage(), Stage()
    asked, both = threading.Semaphore(0), threading.Barrier(2)

    def finished(_: ModelExperiment) -> bool:
        asked.release()
        return below.there

    def train(trained: ModelExperiment, stage: Stage) -> None:
        stage.trained += 1
        if stage is below:
            for _ in range(3):  # twice by this trial, before and behind the lock, then by the other
                assert asked.acquire(timeout=60)
        stage.there = stage is below

    def before(one: ModelExperiment) -> Sequence[ModelExperiment]:
        return [replace(one.with_stage({"name": "prompt_generator"}), seed=0)]

    monkeypatch.setattr(below, "finished", finished)
    monkeypatch.setattr(above, "before", before)
    use(monkeypatch, {"prompt_generator": below, "mask_vae": above}, train)
    sweep = plan(tmp_path, "tune.metric=[a]", "tune.seeds=[0,1]")
    done: list[Any] = []

    def one(trial: Trial) -> None:
        assert isinstance(trial.experiment, ModelExperiment)
        both.wait()
        done.extend(run(trial.experiment, "a"))

    trials = list(sweep.trials(sweep.trial_configs(sweep.bases)))
    threads = [threading.Thread(target=one, args=(trial,)) for trial in trials]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report["score"] for report in done] == [0.5, 0.5]
    assert (below.trained, above.trained) == (1, 2)


def test_a_sweep_that_finished_nothing_has_its_tables_all_the_same(
    tmp_path: Path, stage: Stage
) -> None:
    """Columns that a failed trial, or any model, cannot fill are null."""
    sweep = plan(tmp_path, "tune.metric=[a]", "tune.seeds=[0,1]")
    table = TrialTable(PruningRule("none", 1, 2, tasks=1))
    first, second = sweep.trials(sweep.trial_configs(sweep.bases))
    for trial in (first, second):
        table.add(trial, TrialRecord([], None, "disk full"))
    write_description(sweep, ("mask_vae",))
    sweep.folder.write(BEST, b"of an earlier start")
    rows = write_analysis(sweep, table, ("mask_vae",)).trials.to_pylist()
    assert not sweep.folder.exists(BEST)
    assert [(row["figure"], row["trainable_parameters"]) for row in rows] == [(None, None)] * 2

    run(experiment(sweep), "a")
    table.report(first.name, 1, 0.5)
    table.end(first.name, failed=False)
    outcome = write_analysis(sweep, table, ("mask_vae",))
    assert [row["figure"] for row in outcome.trials.to_pylist()] == [0.5, None]
    assert outcome.comparison.best is None  # one seed of two
    with pytest.raises(TrialsFailedError, match="1 of 2 trials failed"):
        outcome.require_success()
    write_sweep_page(sweep.folder)

"""A population round by round on storage, its streams learned by a stand-in for the workers."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.settings import StreamSettings
from system.errors import ConfigError
from system.results.accuracy_matrix import AccuracyMatrix
from system.results.committed_rows import unpacked
from system.storage.adapters import AdapterFolder, AdapterHeader, task_file
from system.storage.run_directory import (
    ACCURACY_MATRIX,
    MATRIX_SCHEMA,
    METRICS,
    RunDirectory,
    matrix_tables,
)
from tests.actors.streams import make_manifest
from tuning.run.population_run import POPULATION, PopulationRun
from tuning.run.pruner import PruningRule
from tuning.run.trial_table import TrialTable
from tuning.search.sweep_plan import SweepPlan, Trial

TASKS = ("animals", "food", "travel", "sports")
KEYS = ("method.layer_alignment.weight", "method.task_contrast.weight")
SPACE = (
    "space:{method:{rank:{choice:[1,2,4]},layer_alignment:{weight:{loguniform:[0.01,1]}},"
    "task_contrast:{weight:{choice:[0.0,0.1,1.0]}}}},search:random,samples:5"
)
METRICS_OF_SWEEP = ("t2i_r1", "i2t_r1")


class Killed(BaseException):
    """The driver's process is gone."""


def plan(root: Path, *more: str, pbt: str = "every:1") -> SweepPlan:
    prepared = root / "data" / "tiny"
    if not prepared.exists():
        make_manifest(prepared, TASKS).save(str(prepared))
    return SweepPlan.compose(
        [
            "benchmark.name=tiny",
            f"storage_path={root / 'runs'}",
            f"data_path={root / 'data'}",
            "run_name=s",
            f"+tune={{{SPACE},scheduler:pbt,pbt:{{keys:[{','.join(KEYS)}],{pbt}}}}}",
            *more,
        ]
    )


def recall(trial: Trial, task: int) -> float:
    """A score that depends on the trial's own values at a task, as learning would."""
    method = trial.experiment.to_dict()["method"]
    weights = [method[term]["weight"] for term in ("layer_alignment", "task_contrast")]
    there = [w[min(task, len(w) - 1)] if isinstance(w, list) else w for w in weights]
    digest = hashlib.sha256(json.dumps([method["rank"], there, task]).encode()).digest()
    return digest[0] * 100 / 256


def learn(trial: Trial, until: int, step: Callable[[], None]) -> None:
    """Commit the trial's tasks that are not yet, and finish it after the last of all."""
    experiment: Any = trial.experiment
    directory, run = RunDirectory.of(experiment), experiment.run_name
    stream = StreamSettings.of(experiment, TASKS, until).open()
    header = AdapterHeader("b", "f", dict(experiment.method), "tiny", "t", "corrected", 0, TASKS)
    AdapterFolder(directory.adapters).save_header(header)
    generation = stream.register(run)
    while (lease := stream.lease(run, generation)) is not None:
        step()
        stream.open_split(run, generation, 0, lease.task, "train")
        directory.adapters.write(task_file(lease.index), lease.task.encode())
        rows = [
            {
                "trained_index": lease.index,
                "evaluated_index": task,
                "metric": metric,
                "value": recall(trial, lease.index),
                "queries": 10,
            }
            for task in range(lease.index + 1)
            for metric in METRICS_OF_SWEEP
        ]
        stream.commit(run, generation, lease.task, {"task": lease.task, "rows": rows})
    step()
    if len(committed := stream.committed(run)) == len(TASKS):
        matrix = AccuracyMatrix(TASKS, blocks=unpacked(payload["rows"] for payload in committed))
        tables = matrix_tables(matrix.columns())
        directory.folder.write_tables(ACCURACY_MATRIX, MATRIX_SCHEMA, tables)
        directory.folder.write_json(METRICS, {"tasks": list(TASKS)})


class Sweep:
    """Runs tables trial by trial, until a number of steps is used up."""

    def __init__(self, root: Path, steps: int = 10**6, failing: frozenset[str] = frozenset()):
        self.root, self.left, self.failing = root, steps, failing
        self.ran: list[tuple[str, str]] = []  # title and trial config

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def run_table(self, table: TrialTable, title: str) -> None:
        for trial in list(table.to_run()):
            table.start(trial.name)
            failing = trial.config.label in self.failing
            if not failing:
                learn(trial, table.rule.tasks, self.step)
                scores = trial.record(METRICS_OF_SWEEP).scores
                for done, score in enumerate(scores, 1):
                    table.report(trial.name, done, score or 0.0)
            table.end(trial.name, failed=failing)
            self.ran.append((title, trial.config.label))

    def go(self, **changes: Any) -> TrialTable:
        made = plan(self.root, **changes)
        table = TrialTable(PruningRule("none", 1, 2, len(TASKS)))
        PopulationRun(made, made.bases[0], len(TASKS)).run(table, self.run_table)
        return table


def rows(table: TrialTable) -> dict[str, dict[str, Any]]:
    """The trials as the sweep's table has them, with the stored scores."""
    statuses, stops = table.statuses(), table.stops()
    found = {}
    for name, entry in table.entries.items():
        config, origin = entry.trial.config, entry.trial.config.origin
        found[config.label] = {
            "trial": name,
            "values": config.values,
            "overrides": config.overrides,
            "parent": origin and origin.parent,
            "forked_after": origin and origin.tasks,
            "status": statuses[name],
            "stopped_after": stops.get(name),
            "scores": entry.trial.record(METRICS_OF_SWEEP).scores,
        }
    return found


def test_a_population_is_renewed_at_each_comparison(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    rows_of = rows(sweep.go())
    assert list(rows_of) == [f"lpi-{number:03d}" for number in range(5 + 3)]
    statuses = [row["status"] for row in rows_of.values()]
    assert statuses.count("finished") == 5
    stopped = sorted(row["stopped_after"] for row in rows_of.values() if row["stopped_after"])
    assert stopped == [1, 2, 3]
    for number, row in enumerate(rows_of.values()):
        assert (row["parent"] is None) == (number < 5)
        if row["parent"]:
            taken = row["forked_after"]
            parent = rows_of[row["parent"]]
            assert row["scores"][:taken] == parent["scores"][:taken]
            assert all(len(row["values"][key]) == taken + 1 for key in KEYS)
            assert any(text.startswith(f"{KEYS[0]}=[") for text in row["overrides"])


def test_each_score_is_that_of_the_trials_own_config_from_the_start(tmp_path: Path) -> None:
    """Where a fork took over what another one's config would have learned, its list is wrong."""
    for entry in Sweep(tmp_path).go().entries.values():
        scores = entry.curve.scores
        assert scores == [recall(entry.trial, task) for task in range(len(scores))]


def test_no_trial_learns_a_task_before_the_comparison_that_may_end_it(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    found = rows(sweep.go())
    titles = list(dict.fromkeys(title for title, _ in sweep.ran))
    assert titles == ["to task 1 of 4", "to task 2 of 4", "to task 3 of 4", "trials"]
    for row in found.values():
        assert len(row["scores"]) == (row["stopped_after"] or len(TASKS))


@pytest.mark.parametrize("steps", [3, 14, 27])
def test_a_killed_sweep_comes_to_the_same_end(
    tmp_path_factory: pytest.TempPathFactory, steps: int
) -> None:
    whole = rows(Sweep(tmp_path_factory.getbasetemp() / "whole").go())
    root = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        Sweep(root, steps).go()
    assert rows(Sweep(root).go()) == whole


def test_a_sweep_killed_between_decision_and_fork_comes_to_the_same_end(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path_factory.mktemp("killed")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("tuning.run.population_run.fork_run", killed)
        with pytest.raises(Killed):
            Sweep(root).go()
    assert (root / "runs" / "s" / POPULATION).exists()
    whole = rows(Sweep(tmp_path_factory.getbasetemp() / "whole").go())
    assert rows(Sweep(root).go()) == whole


def test_a_finished_sweep_runs_nothing_again(tmp_path: Path) -> None:
    first = rows(Sweep(tmp_path).go())
    again = Sweep(tmp_path, steps=0)
    assert rows(again.go()) == first
    assert again.ran == []


def test_a_trial_that_fails_before_a_comparison_is_left_behind_for_good(tmp_path: Path) -> None:
    """Or a later start would rank another population than the one whose forks are there."""
    first = rows(Sweep(tmp_path, failing=frozenset({"lpi-001"})).go())
    assert first["lpi-001"]["status"] == "failed"
    assert first["lpi-001"]["scores"] == []
    again = Sweep(tmp_path)
    assert rows(again.go()) == first
    assert again.ran == []


def test_where_all_fail_the_next_start_tries_them_again(tmp_path: Path) -> None:
    every = frozenset(f"lpi-{number:03d}" for number in range(5))
    first = rows(Sweep(tmp_path, failing=every).go())
    assert {row["status"] for row in first.values()} == {"failed"}
    assert len(rows(Sweep(tmp_path).go())) == 8


def test_another_population_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    Sweep(tmp_path).go()
    kept = tmp_path / "runs" / "s" / POPULATION
    decisions = json.loads(kept.read_text())
    decisions[0]["figures"]["lpi-017"] = 1.0
    kept.write_text(json.dumps(decisions))
    with pytest.raises(ConfigError, match=r"population\.json is of another population"):
        Sweep(tmp_path).go()


def test_fewer_comparisons_make_fewer_forks(tmp_path: Path) -> None:
    found = rows(Sweep(tmp_path).go(pbt="every:2,share:0.5"))
    assert [row["forked_after"] for row in found.values()] == [None] * 5 + [2, 2]

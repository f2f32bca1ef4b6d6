"""A trial has its directory to itself, and a process one thread for all its trials."""

import functools
import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from system.config.schema import ExperimentConfig
from system.errors import ConfigError, StorageError
from system.loggers.run_loggers import destinations
from system.storage.run_directory import RunDirectory
from system.storage.writer_lock import LOCK_NAME, sole_writer
from tests.integration.small_stream import small_experiment
from tuning.run.trial import WorkerThread, run_trial, worker_thread
from tuning.run.trial_kind import FAILURE


def trial_config(experiment: ExperimentConfig) -> dict[str, Any]:
    return {
        "experiment": experiment.to_dict(),
        "metric": ["t2i_r1"],
        "tasks": 1,
        "logs": destinations(experiment),
    }


def test_two_sweeps_do_not_learn_the_same_trial(tmp_path: Path) -> None:
    """Else both write the trial's journal and files, and its scores are of neither."""
    experiment = small_experiment(tmp_path, "trial", "cluster.workers=0")
    folder = RunDirectory.of(experiment).folder
    reports: queue.Queue[Any] = queue.Queue()
    config = trial_config(experiment)
    with sole_writer(folder), pytest.raises(StorageError, match=r"trial is being written by"):
        run_trial(config, None, reports)
    assert folder.names() == []  # neither a failure nor a lock: they are the other's to write
    assert reports.empty()


def test_a_trial_that_fails_gives_its_directory_back(tmp_path: Path) -> None:
    """The sweep's next start tries it again."""
    experiment = small_experiment(tmp_path, "trial", "cluster.workers=0")
    folder = RunDirectory.of(experiment).folder
    config = trial_config(experiment)
    with pytest.raises(ValueError, match="not prepared"):
        run_trial(config, None, queue.Queue())
    assert folder.exists(FAILURE)
    assert not folder.exists(LOCK_NAME)


def test_a_node_without_the_trackers_variables_ends_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all trials of a sweep log to files on the nodes, and the server has none."""
    experiment = small_experiment(tmp_path, "trial", "cluster.workers=0", "loggers=[wandb]")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    config = trial_config(experiment)
    assert "kkk" not in str(config), "Ray Tune writes it into its logs"
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(ConfigError, match=r"wandb.*online.*offline.*WANDB_API_KEY.*submit\.env"):
        run_trial(config, None, queue.Queue())
    assert "WANDB_API_KEY" in RunDirectory.of(experiment).folder.read_json(FAILURE)["message"]


def test_all_jobs_of_a_process_run_in_one_thread_in_turn() -> None:
    """Else a process grows with every trial by the memory that PyTorch keeps for each thread."""
    seen: list[tuple[int, int]] = []

    def note(number: int) -> None:
        seen.append((number, threading.get_ident()))

    jobs = [worker_thread().start(functools.partial(note, number)) for number in range(3)]
    assert all(job.done.wait(10) for job in jobs)
    assert [n for n, _ in seen] == [0, 1, 2]
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()


def test_a_job_is_done_only_when_it_has_ended() -> None:
    hold = threading.Event()
    job = WorkerThread().start(lambda: _wait(hold))
    assert not job.done.wait(0.05)
    hold.set()
    assert job.done.wait(10)


def _wait(event: threading.Event) -> None:
    assert event.wait(10)

"""The worker's loop without Ray: one worker, and a task stream in the same process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.settings import StreamSettings
from actors.state.task_stream_state import TaskStream
from system.config.schema import ExperimentConfig
from system.data.shards.manifest import Manifest
from system.engine.epochs import EpochLoop
from system.errors import DataError, QuarantinedError, ReplayRefusedError
from system.results.accuracy_matrix import AccuracyMatrix
from system.results.committed_rows import unpacked, unpacked_bools, unpacked_floats
from system.storage.adapters import AdapterFolder
from system.storage.run_directory import RunDirectory
from system.stream.found_ranks import METRICS, queries_of
from system.stream.task_source import StaleGenerationError
from system.stream.worker import StreamWorker
from tests.data.spoilt_shard import spoil_images
from tests.engine.thread_group import ALONE
from tests.integration.small_stream import TASKS, prepare_small_stream, small_experiment


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("worker")
    prepare_small_stream(root)
    return root


class Stream:
    """One run's stream, and workers of it as they start one after the other."""

    def __init__(self, root: Path, name: str, *more: str) -> None:
        short = ("stage.epochs=2", "evaluation.batch_size=64", "cluster.workers=0")
        self.experiment: ExperimentConfig = small_experiment(root, name, *short, *more)
        self.manifest = Manifest.load(str(root / "data" / "small"))
        self.source: TaskStream = StreamSettings.of(self.experiment, TASKS).open()
        self.directory = RunDirectory.of(self.experiment)

    def worker(self) -> StreamWorker:
        """A worker that starts now, as the only one of its group."""
        worker = StreamWorker(self.experiment, TASKS, self.source, self.manifest.fingerprint, ALONE)
        worker.restore()
        return worker

    def learn(self, worker: StreamWorker) -> str:
        """Let it learn the next task; the task's name."""
        lease = worker.next_lease()
        assert lease is not None
        worker.learn(lease)
        return lease.task


def test_a_learned_task_is_committed_with_its_adapter_rows_and_log(root: Path) -> None:
    """What the payload lacks, the run's results lack: nobody else knows it."""
    stream = Stream(root, "one")
    worker = stream.worker()
    assert stream.learn(worker) == TASKS[0]
    (payload,) = stream.source.committed("one")
    assert payload["task"] == TASKS[0]
    learned = AdapterFolder(stream.directory.adapters).task(0)
    assert payload["adapter"] in stream.directory.adapters.names()
    for name, parameter in worker.learned.method.task_parameters(0).items():
        assert torch.equal(learned[f"method.{name}"], parameter)
    blocks = list(unpacked([payload["rows"]]))
    trained = {block.trained_index for block in blocks}
    assert trained == {-1, 0}, "the frozen model's rows come with the first task"
    assert all(block.evaluated.tolist() == list(range(len(TASKS))) for block in blocks)
    assert [row["epoch"] for row in payload["log"]] == [0, 1]
    assert unpacked_floats(payload["similarity"]).tolist() == [pytest.approx(1.0)]
    assert unpacked_bools(payload["attracts"], 1).tolist() == [True], "a task is like itself"
    assert set(payload["seconds"]) == {"features", "train", "evaluate"}


def test_past_and_future_training_images_are_refused(root: Path) -> None:
    """A result that used them is none of continual learning."""
    stream = Stream(root, "refused")
    worker = stream.worker()
    stream.learn(worker)
    assert worker.next_lease() is not None
    for task in (TASKS[0], TASKS[2]):
        with pytest.raises(ReplayRefusedError):
            worker._open(task, "train")
    assert worker._open(TASKS[0], "test").rows > 0


def test_a_second_start_goes_on_where_the_first_one_was(root: Path) -> None:
    """It knows the first one's tasks from their adapters, and the first one is shut out."""
    whole, stream = Stream(root, "whole"), Stream(root, "again")
    straight = whole.worker()
    for _ in TASKS[:2]:
        whole.learn(straight)
    first = stream.worker()
    stream.learn(first)
    second = stream.worker()
    assert second.learned.known_tasks == 1
    with pytest.raises(StaleGenerationError):
        first.next_lease()
    assert stream.learn(second) == TASKS[1]
    for one, other in zip(
        whole.source.committed("whole"), stream.source.committed("again"), strict=True
    ):
        assert (one["rows"], one["similarity"]) == (other["rows"], other["similarity"])
    for task in range(2):
        adapters = [AdapterFolder(of.directory.adapters).task(task) for of in (whole, stream)]
        assert adapters[0].keys() == adapters[1].keys()
        assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])


def test_a_task_is_gone_on_with_from_its_checkpoint(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start in the middle of a task neither forgets its epochs nor repeats them."""
    whole, stream = Stream(root, "uncut"), Stream(root, "cut", "stage.checkpoint_steps=1")
    whole.learn(whole.worker())
    save = EpochLoop.save

    def killed(loop: EpochLoop) -> None:
        save(loop)
        if (loop.position.epoch, loop.position.step) == (1, 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EpochLoop, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            stream.learn(stream.worker())
    assert stream.source.committed("cut") == []
    stream.learn(stream.worker())
    adapters = [AdapterFolder(of.directory.adapters).task(0) for of in (whole, stream)]
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    logs = [of.source.committed(of.experiment.run_name)[0]["log"] for of in (whole, stream)]
    losses = [[row["loss"] for row in log] for log in logs]
    assert losses[0] == losses[1]


def test_the_end_is_told_once_all_tasks_are_learned(root: Path) -> None:
    """Only then does the oracle know every task."""
    stream = Stream(root, "end", "stage.epochs=1")
    worker = stream.worker()
    for learned in range(len(TASKS)):
        assert not worker.complete, learned
        stream.learn(worker)
    assert worker.next_lease() is None
    assert worker.complete
    worker.finish()
    outcome = json.loads(stream.directory.folder.read("outcome.json"))
    assert {row["evaluated_index"] for row in outcome["oracle"]} == set(range(len(TASKS)))
    assert outcome["backbone_fingerprint"] == worker.work.model.fingerprint
    assert outcome["replays"] is False
    ranks = stream.directory.folder.read_table("ranks.parquet")
    assert set(ranks["phase"].to_pylist()) == {"zero_shot", "after"}
    for phase, trained in (("zero_shot", -1), ("after", len(TASKS) - 1)):
        committed = stream.source.committed("end")
        blocks = unpacked(payload["rows"] for payload in committed)
        after = AccuracyMatrix(TASKS, blocks=blocks).rows_after(trained)
        rows = {(row.metric, row.evaluated_index): row for row in after}
        queries = queries_of(ranks, phase)
        for metric in (METRICS["t2i_r1"], METRICS["i2t_r5"], METRICS["t2i_map10"]):
            values = queries.values([metric])[:, 0]
            for task in range(len(TASKS)):
                mine = values[(queries.tasks == task) & ~np.isnan(values)]
                row = rows[metric.name, task]
                assert mine.mean() == pytest.approx(row.value), (phase, metric.name, task)
                assert len(mine) == row.queries


def test_a_broken_image_ends_the_task_by_name_or_is_skipped(tmp_path: Path) -> None:
    """Skipped once, for all later starts: the run goes on with the other images."""
    prepare_small_stream(tmp_path)
    strict = Stream(tmp_path, "strict")
    (name,) = spoil_images(strict.manifest.task(TASKS[0]).handle("train"), [5])
    with pytest.raises(DataError, match=name):
        strict.learn(strict.worker())
    assert strict.source.quarantined("strict") == []

    lenient = Stream(tmp_path, "lenient", "stage.on_error=quarantine")
    with pytest.raises(QuarantinedError, match=name):
        lenient.learn(lenient.worker())
    assert [name in fault.name for fault in lenient.source.quarantined("lenient")] == [True]
    assert lenient.learn(lenient.worker()) == TASKS[0]

"""Trials pack on the cluster, and one that has no room is refused instead of waiting for ever."""

import dataclasses
from types import SimpleNamespace
from typing import cast

import pytest
import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from actors.cluster import check_resources
from actors.handle import SharedStreams
from system.config.schema import ClusterConfig
from system.errors import ConfigError
from tests.tuning.run.test_trial_table import NEW, trial
from tuning.run.pruner import PruningRule
from tuning.run.trial import SweepTrial
from tuning.run.trial_kind import SCORE, TASKS_DONE
from tuning.run.trial_table import TrialTable
from tuning.run.tune_run import Packing, PruningScheduler

pytestmark = pytest.mark.ray

LOCAL = ClusterConfig(address=None, workers=0, cpus_per_worker=1, gpu=False, max_failures=0)


@pytest.mark.parametrize(
    ("workers", "cpus", "most", "concurrent"),
    [
        (0, 1, None, 2),
        (0, 2, None, 1),
        (0, 0.5, None, 4),
        (0, 1, 1, 1),
        (1, 1, None, 2),
        (2, 1, None, 1),
    ],
)
def test_as_many_trials_as_the_cluster_carries(
    ray_local: None, workers: int, cpus: float, most: int | None, concurrent: int
) -> None:
    cluster = dataclasses.replace(LOCAL, workers=workers, cpus_per_worker=cpus)
    packing = Packing.of(cluster, most)
    assert packing.concurrent == concurrent
    # A trial with workers of its own holds no CPU, or its workers might lack it for ever.
    assert packing.resources["CPU"] == (cpus if workers == 0 else 0)


@pytest.mark.parametrize(
    ("workers", "gpu", "most", "message"),
    [
        (3, False, None, r"1 trials at a time need 1 x 3 processes of 1 CPUs, and 2 of them fit"),
        (
            1,
            False,
            3,
            r"3 x 1 processes of 1 CPUs, and 2 .*have 2 CPUs.*tune\.max_concurrent",
        ),
        (0, False, 3, r"3 x 1 processes of 1 CPUs, and 2 of them fit"),
        (1, True, None, r"1 CPUs and 1 GPUs, and 0 of them fit.*2 CPUs and 0 GPUs"),
    ],
)
def test_a_sweep_that_does_not_fit_is_refused_with_the_arithmetic(
    ray_local: None, workers: int, gpu: bool, most: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Packing.of(dataclasses.replace(LOCAL, workers=workers, gpu=gpu), most)


def test_a_worker_has_to_fit_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six CPUs on three nodes carry no worker of four: it would wait for ever."""
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}] * 3 + [{"Alive": False, "Resources": {}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    four = dataclasses.replace(LOCAL, workers=1, cpus_per_worker=4)
    with pytest.raises(ConfigError, match=r"which have 2\+2\+2 CPUs"):
        Packing.of(four, None)
    with pytest.raises(ConfigError, match=r"4 CPUs each, and 0 of them fit.*2\+2\+2 CPUs"):
        check_resources(four)
    one_and_a_half = dataclasses.replace(LOCAL, workers=1, cpus_per_worker=1.5)
    assert Packing.of(one_and_a_half, None).concurrent == 3  # not the four that the sum would give


@pytest.mark.parametrize(
    ("on_each", "gpus", "cpus", "concurrent"),
    [(1, 1, 8, 1), (4, 1, 8, 4), (4, 2, 16, 8), (4, 1, 2, 2), (3, 1, 8, 3), (6, 1, 8, 6)],
)
def test_trials_share_a_gpu(
    monkeypatch: pytest.MonkeyPatch, on_each: int, gpus: int, cpus: int, concurrent: int
) -> None:
    """One small trial leaves most of a card idle; four may run on it if there are CPUs for them."""
    node = {"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}}
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    packing = Packing.of(dataclasses.replace(LOCAL, gpu=True), None, on_each)
    assert packing.concurrent == concurrent
    assert packing.resources["CPU"] == 1
    # As Ray counts: no more than the card, and too much for one trial more.
    share = round(packing.resources["GPU"] * 10_000)
    assert on_each * share <= 10_000 < (on_each + 1) * share
    asked = tune.with_resources(SweepTrial, dict(packing.resources)).default_resource_request({})
    assert asked.required_resources == packing.resources


class Streams:
    """Records the names of halted runs."""

    def __init__(self) -> None:
        self.halted: list[str] = []

    def halt(self, name: str) -> None:
        self.halted.append(name)


def test_a_trial_that_was_ahead_is_halted_by_the_report_it_waited_for() -> None:
    """It would else train its next task to the end, though it is already stopped; and once."""
    table, streams = TrialTable(PruningRule("asha", 1, 2, 4)), Streams()
    for label in ("behind", "ahead"):
        table.add(trial(label), NEW)
        table.start(f"{label}-0")
    scheduler = PruningScheduler(table, cast(SharedStreams, streams))

    def report(label: str, score: float) -> None:
        result = {TASKS_DONE: 1, SCORE: score}
        config = {"experiment": {"run_name": f"{label}-0"}}
        scheduler.on_trial_result(None, cast(TuneTrial, SimpleNamespace(config=config)), result)

    report("ahead", 5.0)
    assert streams.halted == []
    report("behind", 9.0)
    assert streams.halted == ["ahead-0"]
    report("behind", 9.0)
    assert streams.halted == ["ahead-0"]

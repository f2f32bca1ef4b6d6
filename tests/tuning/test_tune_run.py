"""Trials pack on the cluster, and one that has no room is refused instead of waiting for ever."""

import dataclasses

import pytest

from system.config import ClusterConfig
from system.errors import ConfigError
from tuning.tune_run import Packing

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
        (3, False, None, r"1 trials at a time need 1 x 3 x 1 CPUs of 2"),
        (1, False, 3, r"3 trials at a time need 3 x 1 x 1 CPUs of 2.*tune\.max_concurrent"),
        (0, False, 3, r"3 x 1 x 1 CPUs of 2"),
        (1, True, None, r"1 x 1 x 1 GPUs of 0"),
    ],
)
def test_what_does_not_fit_is_told_with_the_arithmetic(
    ray_local: None, workers: int, gpu: bool, most: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Packing.of(dataclasses.replace(LOCAL, workers=workers, gpu=gpu), most)

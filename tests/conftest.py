"""Fixtures for the whole suite."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray cluster of two cores on this machine, for all tests marked `ray`."""
    import ray

    ray.init(
        address="local",  # never join a cluster that happens to run here
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        namespace="promptide-tests",
    )
    yield
    ray.shutdown()

"""Fixtures for the whole suite."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# No example has a deadline: a busy machine breaks no promise.
settings.register_profile("promptide", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("promptide")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How hard tests/faults tries (few in .ci/run), and where benches write their figures."""
    parser.addoption("--kills", type=int, default=3, help="faults that tests/faults makes")
    parser.addoption("--fault-seed", type=int, default=0, help="which faults, and when")
    parser.addoption("--performance", help="the Markdown file that tests/benchmarks writes")


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


@pytest.fixture(autouse=True)
def _ray_stays() -> Iterator[None]:
    """The test that ends the suite's Ray fails, not those after it, which cannot know why."""
    ray = sys.modules.get("ray")
    started = ray is not None and ray.is_initialized()
    yield
    assert not started or sys.modules["ray"].is_initialized(), "this test ended the suite's Ray"

"""Two nodes of a real cluster, for a module's tests."""

from collections.abc import Iterator

import pytest

from tests.cluster.two_nodes import Cluster, two_nodes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with two_nodes() as cluster:
        yield cluster

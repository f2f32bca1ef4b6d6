"""Two nodes on one machine: the stream runs across both, one dies, and it goes on."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from tests.faults.harness import WORKER, FaultyRun
from tests.faults.outcome import assert_undisturbed
from tests.faults.processes import MARK, named, parent

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

RUN = "two-nodes"


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that could carry all workers, and a second node for one of them."""
    monkeypatch.setenv(MARK, RUN)  # the nodes' processes are found, and ended, by it
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster: Any = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def raylet_of(cluster: Any, node: int) -> int:
    (info,) = cluster.list_all_nodes()[node].all_processes["raylet"]
    return int(info.process.pid)


def test_a_node_dies_and_the_stream_goes_on(undisturbed: Path, nodes: Any) -> None:
    """Else a cluster's run is worth no more than its least reliable machine."""
    head, second = raylet_of(nodes, 0), raylet_of(nodes, 1)
    run = FaultyRun(
        undisturbed,
        RUN,
        random.Random(0),
        workers=2,
        address=nodes.address,
        settings=("cluster.placement=SPREAD",),
    )

    def kill_the_second() -> bool:
        if not sorted(run.journal.glob("*.json"))[8:]:
            return False  # the first task is on its way, and the test splits are read
        assert {parent(p.pid) for p in named(RUN, WORKER)} == {head, second}, "not across both"
        os.kill(second, signal.SIGKILL)
        return True

    run.complete([], when=kill_the_second)
    assert run.starts == 1, "the driver lived on the head: it need not start again"
    assert_undisturbed(undisturbed, run)
    nodes.shutdown()
    assert run.orphans() == []

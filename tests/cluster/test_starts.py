"""A real cluster of two nodes that asks for a token, its head without CPUs: joined, or refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.two_nodes import Cluster
from tests.integration.small_stream import overrides, prepare_small_stream

pytestmark = pytest.mark.cluster
#: `promptide` of another version of Ray.
OTHER_VERSION = """
import sys, ray
ray.__version__ = "2.0.0"
from system import app
sys.exit(app.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("starts")
    prepare_small_stream(root)
    return root


def words(root: Path, name: str, cluster: Cluster) -> list[str]:
    own = ["cluster.workers=1", "stage.epochs=1", f"cluster.address={cluster.head}"]
    return ["run", *overrides(root, name, *own)]


def the_line(done: "subprocess.CompletedProcess[str]") -> str:
    """What is told of a refusal: one line, nothing of Ray's own."""
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("variables", [{"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}])
def test_another_token_is_refused_in_one_line(
    cluster: Cluster, root: Path, variables: dict[str, str]
) -> None:
    """Ray writes twenty lines of its own, and a traceback."""
    line = the_line(cluster.promptide(*words(root, "token", cluster), **variables))
    assert f"cluster.address='{cluster.head}'" in line
    assert "RAY_AUTH_TOKEN" in line
    assert cluster.token not in line
    assert not (root / "runs" / "token" / "writer.json").exists()


def test_another_version_is_refused_in_one_line(cluster: Cluster, root: Path) -> None:
    import ray

    done = subprocess.run(
        [sys.executable, "-c", OTHER_VERSION, *words(root, "version", cluster)],
        env=cluster.environment,
        capture_output=True,
        text=True,
    )
    line = the_line(done)
    assert f"the cluster has Ray {ray.__version__}" in line
    assert "this process Ray 2.0.0" in line


def test_a_head_without_cpus_starts_a_run_whose_worker_is_elsewhere(
    cluster: Cluster, root: Path
) -> None:
    done = cluster.promptide(*words(root, "joined", cluster))
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((root / "runs" / "joined" / "metrics.json").read_text())
    assert metrics["replayed_rows"] == 0
    (second,) = [node["node_id"] for node in cluster.get("nodes") if not node["is_head_node"]]
    workers = [row for row in cluster.get("actors") if "TrainWorker" in row["class_name"]]
    assert {row["node_id"] for row in workers} == {second}


def test_more_workers_than_the_cluster_carries_are_refused(cluster: Cluster, root: Path) -> None:
    """Not even one fits on the head; a run would wait for ever."""
    line = the_line(cluster.promptide(*words(root, "many", cluster), "cluster.cpus_per_worker=3"))
    assert "0+2 CPUs" in line or "2+0 CPUs" in line
    assert "start another node" in line

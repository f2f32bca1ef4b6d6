"""Jobs on a real cluster of two nodes that asks for a token: sent, followed, stopped."""

import hashlib
import json
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from system.submission.command import JobCommand
from system.submission.config import compose_submission
from system.submission.job import Job
from system.submission.job_environment import seal
from system.submission.job_server import JobServer
from tests.cluster.two_nodes import DEADLINE, Cluster
from tests.integration.small_stream import overrides, prepare_small_stream

pytestmark = pytest.mark.cluster

SECRET = secrets.token_hex(16)  # this file is among what is sent
PROBE = """
import hashlib, os
from system import app
from system.submission.job_environment import unseal
import ray
unseal()
ray.init("auto")
@ray.remote(num_cpus=1)
def far():
    return hashlib.sha256(os.environ["PROBE_SECRET"].encode()).hexdigest()
print("here", hashlib.sha256(os.environ["PROBE_SECRET"].encode()).hexdigest())
print("far", ray.get(far.remote()))
print("code", os.path.dirname(app.__file__))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("jobs")
    prepare_small_stream(root)
    return root


def where(cluster: Cluster) -> str:
    return f"submit.address={cluster.address}"


def submitted(text: str) -> str:
    """The id in what `promptide submit` prints first."""
    (line,) = [line for line in text.splitlines() if line.startswith("job: ")]
    return line.removeprefix("job: ")


def test_a_run_is_followed_to_its_end_and_trains_on_the_second_node(
    cluster: Cluster, root: Path
) -> None:
    """`--wait` shows the job's lines and ends as it does."""
    command = ["run", *overrides(root, "sent", "cluster.workers=1", "stage.epochs=1")]
    done = cluster.promptide("submit", *command, where(cluster), "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    job = submitted(done.stdout)
    assert "task 3/3 person: learned" in done.stdout
    assert f"job {job}: SUCCEEDED" in done.stdout
    metrics = json.loads((root / "runs" / "sent" / "metrics.json").read_text())
    assert metrics["replayed_rows"] == 0
    (second,) = [node["node_id"] for node in cluster.get("nodes") if not node["is_head_node"]]
    workers = [row for row in cluster.get("actors") if "TrainWorker" in row["class_name"]]
    assert {row["node_id"] for row in workers} == {second}  # more than one if a group was lost


def test_a_sweep_is_followed_by_another_command(cluster: Cluster, root: Path) -> None:
    """`submit logs -f` ends with the job, and its trials have run on the second node."""
    tune = "+tune={space:{method:{rank:{grid:[1,2]}}}}"
    command = ["sweep", *overrides(root, "swept", "cluster.workers=0", "stage.epochs=1", tune)]
    sent = cluster.promptide("submit", *command, where(cluster))
    assert sent.returncode == 0, sent.stdout + sent.stderr
    job = submitted(sent.stdout)
    followed = cluster.promptide("submit", "logs", job, "-f", where(cluster))
    assert followed.returncode == 0, followed.stderr
    assert "best.yaml" in followed.stdout
    rows = pq.read_table(root / "runs" / "swept" / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished", "finished"]
    listed = cluster.promptide("submit", "status", where(cluster))
    assert f"{job}  SUCCEEDED" in listed.stdout


def test_a_job_that_is_stopped_ends_in_order(cluster: Cluster, root: Path) -> None:
    """As by Ctrl-C: nobody holds the run directory, so that the same command goes on at once."""
    command = ["run", *overrides(root, "stopped", "cluster.workers=0", "stage.epochs=10000")]
    sent = cluster.promptide(
        "submit", *command, where(cluster), "submit.id=to-stop", "submit.entrypoint.cpus=1"
    )
    assert submitted(sent.stdout) == "to-stop"
    end = time.monotonic() + DEADLINE
    # any but the first: what is shown twice a second need not be the second
    while not re.search(r"epoch ([2-9]|\d\d+)/10000", shown := cluster.logs("to-stop")):
        assert time.monotonic() < end, shown
        time.sleep(1)
    assert (root / "runs" / "stopped" / "writer.json").exists()
    stopped = cluster.promptide("submit", "stop", "to-stop", where(cluster))
    assert "to-stop: STOPPED" in stopped.stdout, stopped.stderr
    shown = cluster.promptide("submit", "logs", "to-stop", where(cluster)).stdout
    assert "interrupted" in shown
    assert not (root / "runs" / "stopped" / "writer.json").exists()
    again = cluster.promptide("submit", "stop", "to-stop", where(cluster))
    assert "had ended before" in again.stdout


def test_values_of_variables_arrive_and_are_written_nowhere(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both nodes have them; Ray's logs, which hold every runtime environment, do not."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(__file__).parents[2] / "system", tmp_path / "system")
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    config = compose_submission([where(cluster)])
    job = Job(JobCommand.checked("prepare", [], None, config, False), config)
    sealed = seal({"PROBE_SECRET": SECRET}, cluster.token)
    server = JobServer(cluster.address)
    sent = server.submit(
        f"{sys.executable} probe.py",
        {**job.working_dir(), **job.runtime_env(sealed)},
        config.entrypoint,
        None,
    )
    server.ended(sent)
    shown, digest = server.logs(sent), hashlib.sha256(SECRET.encode()).hexdigest()
    assert f"here {digest}" in shown, shown
    assert f"far {digest}" in shown
    assert f"code {cluster.folder}" in shown  # what was sent, and not what is installed
    found = subprocess.run(
        ["grep", "-rlI", SECRET, str(cluster.folder)], capture_output=True, text=True
    )
    assert found.stdout == ""
    assert "PROMPTIDE_SEALED" in "".join(
        path.read_text() for path in cluster.folder.glob("r/session_2*/logs/runtime_env_agent*.log")
    ), "Ray has logged no runtime environment at all: then this test shows nothing"


#: Instead of the workers' loop: what a method of a user's own may do with its token.
LEAKING = """

def continual_loop(config):
    import logging, os
    value = os.environ["LEAKED"]
    print("printed", value, flush=True)
    logging.getLogger("user").error("logged %s", value)
    try:
        raise KeyError(value)
    except KeyError as error:
        raise RuntimeError(f"refused {value} at https://me:{value}@host/x?sig={value}") from error
"""


def test_a_submitted_run_that_fails_leaves_its_secrets_nowhere(
    cluster: Cluster, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in what it prints or in Ray's logs, job lists and tasks; nor in files or process lists.

    Its worker prints, logs and raises the value.
    """
    secret = secrets.token_hex(16)
    for package in ("system", "actors", "tuning", "configs"):
        shutil.copytree(Path(__file__).parents[2] / package, tmp_path / package)
    with (tmp_path / "system" / "stream" / "worker.py").open("a") as code:
        code.write(LEAKING)
    monkeypatch.chdir(tmp_path)
    lines: set[str] = set()
    with watched_processes(lines):
        done = cluster.promptide(
            *("submit", "run", *overrides(root, "leaking", "cluster.workers=1")),
            *("cluster.max_failures=0", where(cluster), "submit.env=[LEAKED]", "submit.id=leaking"),
            "--wait",
            LEAKED=secret,
            PYTHONPATH=str(tmp_path),
        )
    shown = done.stdout + done.stderr
    assert done.returncode == 2, shown
    assert "refused <LEAKED>" in shown, "the worker did not get to its error: nothing is shown"
    assert "submit run" in "".join(lines), "no process was seen: nothing is shown"
    told = {
        "the command's output": shown,
        "the job's log": cluster.logs("leaking"),
        "processes": "\n".join(lines),
        **{what: json.dumps(cluster.get(what)) for what in ("jobs", "tasks", "actors", "workers")},
    }
    assert [name for name, text in told.items() if secret in text] == []
    places = [str(cluster.folder), str(root / "runs")]
    found = subprocess.run(["grep", "-rla", secret, *places], capture_output=True, text=True)
    assert found.stdout == ""


@contextmanager
def watched_processes(lines: set[str]) -> Iterator[None]:
    """Collect the command lines of all processes while the block runs."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    lines.add(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_TOKEN"),
    ],
)
def test_without_the_clusters_token_nothing_is_told(
    cluster: Cluster, variables: dict[str, str], named: str
) -> None:
    done = cluster.promptide("submit", "status", where(cluster), **variables)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_job_that_is_not_there(cluster: Cluster) -> None:
    for what in (["logs"], ["logs", "-f"], ["status"], ["stop"]):
        done = cluster.promptide("submit", *what, "nobody", where(cluster))
        assert done.returncode == 2
        assert "'nobody'" in done.stderr

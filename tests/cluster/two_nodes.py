"""A Ray cluster of two nodes on this machine, with a token, apart from all others that run here."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.faults.processes import MARK, marked

DEADLINE = 1800  # seconds; a loaded machine takes its time to start processes
WORKER_PORTS = 200  # a node
#: What Ray would take over what is set here.
FOREIGN = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN")
#: What is slow is not dead here. By default Ray gives up a worker that takes a minute to start, and
#: a head that is silent for as long, and forgets an uploaded package, which jobs share, after ten.
PATIENT = {
    "RAY_worker_register_timeout_seconds": str(DEADLINE),
    "RAY_agent_register_timeout_ms": str(1000 * DEADLINE),
    "RAY_gcs_rpc_server_connect_timeout_s": "120",
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(DEADLINE),
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "30",
    "RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S": str(4 * DEADLINE),
    "RAY_worker_niceness": "0",  # 15 by default: on a full machine trials then get next to nothing
}


@dataclass(frozen=True)
class Cluster:
    """A head without CPUs and a second node with two: what needs a CPU can only run there."""

    address: str  # of the dashboard
    folder: Path  # Ray's own files, logs among them
    token: str
    environment: dict[str, str]

    @property
    def head(self) -> str:
        """Where the head takes drivers, as `cluster.address` has it."""
        address = _own_address(self.folder)
        assert address is not None
        return address

    def get(self, what: str) -> list[dict[str, Any]]:
        """Rows of Ray's state API, such as `actors`."""
        found = self._asked(f"v0/{what}", detail="1", limit="1000")
        rows: list[dict[str, Any]] = found["data"]["result"]["result"]
        return rows

    def logs(self, job: str) -> str:
        """What a job has printed; to look at often, as `promptide submit logs` takes its time."""
        return str(self._asked(f"jobs/{job}/logs")["logs"])

    def _asked(self, what: str, **parameters: str) -> dict[str, Any]:
        answer = requests.get(
            f"{self.address}/api/{what}",
            params=parameters,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=DEADLINE,
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def promptide(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command line with the cluster's token; an empty variable is taken away."""
        environment = {**self.environment, **variables}
        return subprocess.run(
            [sys.executable, "-m", "system.app", *arguments],
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )


@contextlib.contextmanager
def two_nodes() -> Iterator[Cluster]:
    """Start both, and end every process that came of it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets need a short path
    token, mark = secrets.token_hex(32), secrets.token_hex(8)
    token_file = folder / "token"
    token_file.write_text(token)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in FOREIGN},
        **PATIENT,
        MARK: mark,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
    }
    try:
        yield _started(folder, token, environment, mark)
    finally:
        _end(mark)
        shutil.rmtree(folder, ignore_errors=True)


def _started(folder: Path, token: str, environment: dict[str, str], mark: str) -> Cluster:
    """Both nodes, once a try has found the machine fast enough for Ray."""
    end = time.monotonic() + DEADLINE
    while True:
        gcs, dashboard, client, *agents = _free_ports(7)
        first = 20000 + secrets.randbelow(10000 - 2 * WORKER_PORTS)
        head = [f"--port={gcs}", "--head", "--num-cpus=0", f"--temp-dir={folder / 'r'}"]
        head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        head += [f"--ray-client-server-port={client}", "--include-dashboard=true"]
        try:
            _start(head, agents[:2], first, environment)
            address = f"{socket.gethostbyname(socket.gethostname())}:{gcs}"
            second = [f"--address={_own_address(folder) or address}", "--num-cpus=2"]
            _start(second, agents[2:], first + WORKER_PORTS, environment)
        except _TooSlowError:
            if time.monotonic() > end:
                raise
            _end(mark)
            shutil.rmtree(folder / "r", ignore_errors=True)
            continue
        return Cluster(f"http://127.0.0.1:{dashboard}", folder, token, environment)


class _TooSlowError(Exception):
    """Ray gives a node half a minute to start, which no setting changes."""


def _own_address(folder: Path) -> str | None:
    """The address under which the head says that it can be reached."""
    file = folder / "r" / "ray_current_cluster"
    return file.read_text().strip() if file.exists() else None


def _start(own: list[str], agents: list[int], port: int, environment: dict[str, str]) -> None:
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start"),
        *own,
        f"--dashboard-agent-listen-port={agents[0]}",
        f"--metrics-export-port={agents[1]}",
        f"--min-worker-port={port}",
        f"--max-worker-port={port + WORKER_PORTS - 1}",
        "--object-store-memory=100000000",
        "--disable-usage-stats",
    ]
    done = subprocess.run(
        command,
        env=environment,
        preexec_fn=_ignore_ctrl_c,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    output = done.stdout + done.stderr
    if "timed out during startup" in output:
        raise _TooSlowError(output)
    assert done.returncode == 0, output


def _ignore_ctrl_c() -> None:
    """As in the background of a script, where clusters are often started: jobs inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _end(mark: str) -> None:
    end = time.monotonic() + DEADLINE
    while processes := marked(mark):
        for process in processes:
            process.send(signal.SIGKILL)
        assert time.monotonic() < end, f"still there: {processes}"
        time.sleep(0.1)

"""Each way in which Ray refuses is one line with what to do: its words were taken from Ray 2.60."""

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from actors import starting
from actors.starting import check_address, joining_refused, ray_folder, start_ray, starting_refused
from system.errors import ClusterError, ConfigError

LONG = "x" * 90  # as a job's TMPDIR on a cluster


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("ray://head:10001", "promptide submit"),
        ("http://head:8265", "submit.address"),
        ("head", "HOST:PORT"),
        ("head:", "HOST:PORT"),
        (":6379", "HOST:PORT"),
        ("head:port", "HOST:PORT"),
        ("head:65536", "HOST:PORT"),
        ("head:٦", "HOST:PORT"),
        ("no-such-host.invalid:6379", "no host of that name"),
    ],
)
def test_what_is_no_address_is_refused_at_once(address: str, named: str) -> None:
    """Ray would try for a quarter of an hour, or start a server of a minute for Ray Client."""
    with pytest.raises(ConfigError, match=r"cluster\.address=") as raised:
        check_address(address)
    assert named in str(raised.value)


def test_an_address_where_nothing_listens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "SECONDS_TO_ANSWER", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=r"cannot be reached.*ray start --head"):
            check_address(f"127.0.0.1:{port}")


def test_a_head_that_comes_up_meanwhile_is_waited_for() -> None:
    """Scripts of schedulers start it in the line before."""
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        timer = threading.Timer(0.3, head.listen)
        timer.start()
        check_address(f"127.0.0.1:{head.getsockname()[1]}")
        timer.join()


def test_the_variable_that_ray_takes_over_auto_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(ConfigError, match="http://head:8265"):
        check_address("auto")
    check_address(None)
    check_address("local")


@pytest.mark.parametrize(
    ("told", "named"),
    [
        (
            "RpcError: Unauthenticated: RPC error: InvalidAuthToken: Authentication token is "
            "missing or incorrect",
            "RAY_AUTH_TOKEN",
        ),
        (
            "AuthenticationError: RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty",
            "~/.ray/auth_token",
        ),
        (
            "Failed to register worker to Raylet: Invalid: No available ports. Please specify a "
            "wider port range using --min-worker-port and --max-worker-port.",
            "--max-worker-port",
        ),
        (
            "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.52.1\n    "
            "Python: 3.10.4\nThis process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    "
            "Python: 3.11.7\n",
            "ray==2.52.1",
        ),
        ("RpcError: RPC error: Method not found! rpc_code: 12", "something other than the head"),
        ("ConnectionError: Could not find any running Ray instance. Please specify", "no Ray runs"),
        (
            "ConnectionError: Failed to connect to Ray cluster at 10.0.0.1:6379\nRuntimeError: No "
            "node info found matching attributes: '' when trying to resolve node to connect to.",
            "not one of its nodes",
        ),
        ("RuntimeError: something of a later Ray\nat length", "something of a later Ray"),
    ],
)
def test_a_refusal_to_join_names_the_address_and_the_remedy(told: str, named: str) -> None:
    message = str(joining_refused(told, "head:6379"))
    assert "cluster.address='head:6379'" in message
    assert named in message


def test_another_version_is_told_with_both() -> None:
    told = "Version mismatch:\n Ray: 2.52.1\n Python: 3.10.4\nThis:\n Ray: 2.60.0\n Python: 3.11.7"
    message = str(joining_refused(told, "head:6379"))
    assert all(version in message for version in ("2.52.1", "3.10.4", "2.60.0", "3.11.7"))


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (Exception("The current node timed out during startup. This could ..."), "too busy"),
        (PermissionError(errno.EACCES, "Permission denied"), "set TMPDIR"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (FileExistsError(errno.EEXIST, "File exists"), "a file is in the way"),
        (RuntimeError("something else"), "something else"),
        (ValueError("anything"), "session_latest/logs"),
    ],
)
def test_a_refusal_to_start_ends_as_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, named: str
) -> None:
    """Ray raises bare Exceptions, which would be tracebacks of its own files."""

    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # it would end the cluster of the suite
    with pytest.raises(ClusterError) as raised:
        start_ray(None)
    assert named in str(raised.value)
    assert "/ray" in str(raised.value) or named == "too busy"


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_GCS_SERVER_PORT", "26999")
    error = RuntimeError("Failed to start GCS. Last 0 lines of error files:")
    assert "RAY_GCS_SERVER_PORT" in str(starting_refused(error, "/scratch/ray"))
    monkeypatch.delenv("RAY_GCS_SERVER_PORT")
    assert "RAY_GCS_SERVER_PORT" not in str(starting_refused(error, "/scratch/ray"))


@given(st.text(st.characters(min_codepoint=48, max_codepoint=0x4E00), min_size=1, max_size=200))
def test_no_temporary_folder_is_too_long_for_a_socket(name: str) -> None:
    """Whatever TMPDIR holds: Linux takes 107 bytes, and Ray's names take most of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_TMPDIR", raising=False)
        patch.setenv("TMPDIR", f"/nowhere/{name}")
        folder, usual = ray_folder()
    assert usual == f"/nowhere/{name}/ray"
    sockets = "/session_2026-12-01_02-22-19_772939_4194304/sockets/plasma_store"
    assert len(os.fsencode(folder + sockets)) <= 107
    assert (folder == usual) == (len(os.fsencode(usual + sockets)) <= 107)


@pytest.fixture
def short_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], tuple[Path, str]]:
    """Only one short place, in which something lies where Ray's folder would be."""

    def placed(kind: str) -> tuple[Path, str]:
        monkeypatch.setenv("TMPDIR", f"{tmp_path}/{LONG}")
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setattr(starting, "SHORT_PLACES", (str(tmp_path), str(tmp_path / "second")))
        (tmp_path / "second").mkdir()
        folder = tmp_path / f"ray-{os.getuid()}"
        if kind == "link":
            folder.symlink_to(tmp_path / "second")
        elif kind == "file":
            folder.write_text("")
        elif kind == "folder":
            folder.mkdir()
        return tmp_path, ray_folder()[0]

    return placed


@pytest.mark.parametrize(
    ("kind", "chosen"), [("nothing", "."), ("folder", "."), ("link", "second"), ("file", "second")]
)
def test_a_folder_that_may_be_anothers_is_not_taken(
    short_places: Callable[[str], tuple[Path, str]], kind: str, chosen: str
) -> None:
    """In /tmp anyone may lay a link before the first start."""
    root, folder = short_places(kind)
    assert Path(folder) == root / chosen / f"ray-{os.getuid()}"


def test_without_any_short_place_the_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", f"{tmp_path}/{LONG}")
    monkeypatch.setattr(starting, "SHORT_PLACES", (str(tmp_path / "not-there"),))
    with pytest.raises(ClusterError, match="set RAY_TMPDIR to a folder of at most"):
        ray_folder()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_starts_under_a_temporary_folder_that_is_too_long(tmp_path: Path) -> None:
    """As in a scheduler's job. Objects that do not fit into memory are kept where TMPDIR says."""
    program = """
import ray
from actors.cluster import ray_cluster
from system.config.compose import compose
with ray_cluster(compose([]).cluster):
    print("started", ray.get(ray.remote(num_cpus=0)(lambda: 7).remote()))
"""
    long = tmp_path / LONG
    variables = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**variables, "TMPDIR": str(long)},
        capture_output=True,
        text=True,
    )
    assert "started 7" in done.stdout, done.stderr
    assert (long / "ray" / "spilled").is_dir()
    assert not list((long / "ray").glob("session_*"))

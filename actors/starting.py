"""Starting Ray on this machine, or joining a cluster: whatever refuses ends as one line.

Ray raises plain RuntimeErrors, ConnectionErrors and OSErrors, and keeps trying to reach an address
where nothing is for a quarter of an hour. So an address is tried first, and each of Ray's
refusals is told with what to do about it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import stat
import subprocess  # nosec B404
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray

from system.errors import ClusterError, ConfigError, PromptideError

SECONDS_TO_ANSWER = 10.0  # of an address, until nothing is there
SECONDS_BETWEEN_TRIES = 0.5
HEAD_PORT = 6379  # `ray start --head` takes it unless told otherwise

SECONDS_TO_JOIN = 180.0
#: What `_try_joining` runs.
JOIN = """
import logging, sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
except Exception as error:
    while error is not None:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        error = error.__cause__ or error.__context__
    sys.exit(1)
ray.shutdown()
"""
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's own name of it

SOCKET_PATH = 107  # bytes; Linux takes no longer one
#: What Ray puts behind its folder, with the longest process number.
_BEHIND = "/session_2026-12-01_02-22-19_772939_4194304/sockets/plasma_store"
LONGEST_FOLDER = SOCKET_PATH - len(_BEHIND)
#: A folder there is taken only if it is this user's own: see `_own_folder`.
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  # nosec B108

LOCAL = "local"  # Ray's word for a new one, also where another runs on this machine
AUTO = "auto"  # Ray's word for the one that runs on this machine
AUTH_REMEDY = (
    "copy ~/.ray/auth_token of the cluster's head to this machine, or set RAY_AUTH_TOKEN (or "
    "RAY_AUTH_TOKEN_PATH) to it, with RAY_AUTH_MODE=token; RAY_AUTH_MODE=disabled is for a "
    "cluster that was started with it"
)
START_ONE = (
    "start Ray there (`ray start --head`), or set cluster.address=null for one on this machine"
)
RAY_WAS_LATE = (
    "Ray's own processes did not start within the half minute that it gives them: this machine is "
    "too busy; run the same command again, or use a running cluster by cluster.address"
)
#: In a refusal to join: what Ray says, and what that means with the remedy.
_JOINING = (
    (
        r"InvalidAuthToken|Unauthenticated",
        f"its token is not this process's: {AUTH_REMEDY}",
    ),
    (
        r"(?i)token authentication|auth.token",
        f"it may ask for a token, and there is none here: {AUTH_REMEDY}",
    ),
    (
        r"No available ports",
        "all its ports for workers are taken, which drivers need one of too: end other programs "
        "there, or start its nodes with a wider --min-worker-port and --max-worker-port",
    ),
    (
        r"Method not found|UNIMPLEMENTED",
        "something other than the head of a Ray cluster answers there; take the address that "
        f"`ray start --head` printed, whose port is {HEAD_PORT} unless it was told another",
    ),
    (
        r"Could not find any running Ray instance",
        f"no Ray runs on this machine; {START_ONE}",
    ),
    (
        r"(?i)no node info|node info for possible|node_ip_address",
        "this machine is not one of its nodes; make it one (`ray start --address=...`, "
        "`--num-cpus=0` if it shall do no work), or send the command by `promptide submit`",
    ),
)
#: In a refusal to start.
_STARTING = (
    (r"timed out during startup", RAY_WAS_LATE),
    (
        r"(?i)token authentication|auth.token",
        "RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN names no token: unset it (Ray makes one of its "
        "own), or set RAY_AUTH_MODE=disabled",
    ),
)


def check_address(address: str | None) -> None:
    """Whether anything answers at a cluster's address; quick, for before what takes long.

    Raises ConfigError naming `cluster.address` for what is no address, or where nobody answers.
    """
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or AUTO  # what Ray takes over it
    if address in (None, LOCAL, AUTO):
        return
    where = f"cluster.address={address!r}"
    scheme, separator, _ = address.partition("://")
    if separator and scheme == "ray":
        raise ConfigError(
            f"{where} is Ray Client's address, over which Ray Train cannot run: on a node of the "
            f"cluster use auto or HOST:{HEAD_PORT}, from elsewhere `promptide submit`"
        )
    if separator:
        raise ConfigError(
            f"{where} is no address of Ray's; that is HOST:{HEAD_PORT}, as `ray start --head` "
            "printed it; a dashboard's address, which takes jobs, is for submit.address of "
            "`promptide submit`"
        )
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ConfigError(f"{where} is no address: write HOST:PORT, such as head:{HEAD_PORT}")
    why = _unanswered(host.strip("[]"), int(port))
    if why is not None:
        raise ConfigError(f"{where} cannot be reached ({why}); {START_ONE}")


def start_ray(address: str | None, level: int = logging.WARNING) -> None:
    """Start Ray on this machine if the address is None, else join the cluster there.

    Raises ConfigError naming `cluster.address`, or ClusterError where Ray does not start here.
    """
    # Ray warns about CUDA_VISIBLE_DEVICES of zero-GPU workers; the new way is asked for here.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address in (None, LOCAL):
        _start_here(level)
    else:
        assert address is not None
        _join(address, level)


def _join(address: str, level: int) -> None:
    check_address(address)
    _try_joining(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=level)
    except Exception as error:
        _leave()
        raise joining_refused(_chain(error), address) from error


def _start_here(level: int) -> None:
    folder, before = ray_folder()
    options: dict[str, Any] = {} if folder == before else {"_temp_dir": folder, **_spilling(before)}
    try:
        ray.init(
            address=LOCAL,  # never joins a cluster that happens to run on this machine
            include_dashboard=False,
            log_to_driver=False,
            logging_level=level,
            **options,
        )
    except Exception as error:
        _leave()
        raise starting_refused(error, folder) from error


def joining_refused(told: str, address: str) -> ConfigError:
    """What to make of Ray's words when it lets no process join the cluster at an address."""
    where = f"cluster.address={address!r}"
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", told)
    if "Version mismatch" in told and len(versions) == 2:
        (theirs, their_python), (ours, our_python) = versions
        return ConfigError(
            f"{where} cannot be used: the cluster has Ray {theirs} on Python {their_python}, this "
            f"process Ray {ours} on Python {our_python}; install the cluster's (pip install "
            f"'ray=={theirs}' under Python {their_python}), or start promptide with the Python of "
            "its nodes"
        )
    for sign, means in _JOINING:
        if re.search(sign, told):
            return ConfigError(f"{where} cannot be used: {means}")
    return ConfigError(f"{where} cannot be used ({_first_line(told)}); {START_ONE}")


def starting_refused(error: Exception, folder: str) -> PromptideError:
    """What to tell of Ray's refusal to start on this machine, its own files being in `folder`."""
    told = _chain(error)
    for sign, means in _STARTING:
        if re.search(sign, told):
            return ClusterError(means)
    port = os.environ.get("RAY_GCS_SERVER_PORT")
    if port is not None and re.search(r"(?i)GCS|in use|bind", told):
        return ClusterError(
            f"Ray does not start on port {port}, which RAY_GCS_SERVER_PORT asks for and another "
            "process has, or may not be used: unset it, and Ray finds a free one"
        )
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number in _PLACE_REMEDIES:
        return ClusterError(
            f"Ray cannot write its own files in {folder} ({_PLACE_REMEDIES[number]}): set TMPDIR "
            "(or RAY_TMPDIR) to a folder of this machine that you may write, with room"
        )
    return ClusterError(
        f"Ray does not start on this machine ({_first_line(told)}); what its processes said is in "
        f"{folder}/session_latest/logs; `ray start --head` shows the same without promptide, and "
        "cluster.address names a cluster that runs already"
    )


_PLACE_REMEDIES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the filesystem is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOTDIR: "a file is in the way",
    errno.EEXIST: "a file is in the way",
    errno.ENOENT: "no such folder can be made",
}


def ray_folder() -> tuple[str, str]:
    """The folder for Ray's own files on this machine, and the one that it would take by itself.

    They differ where the path is too long for a socket, as TMPDIR of a cluster's job often is.
    Raises ClusterError if there is no short place that this user may write.
    """
    # As in Ray, which does not take what tempfile makes of a TMPDIR that is not there.
    own = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or SHORT_PLACES[0]
    usual = os.path.join(own, "ray")
    if len(os.fsencode(os.path.abspath(usual))) <= LONGEST_FOLDER:
        return usual, usual
    for place in SHORT_PLACES:
        folder = f"{place}/ray-{os.getuid()}"
        if _own_folder(folder):
            return folder, usual
    raise ClusterError(
        f"{usual} is too long for Ray's sockets, and no folder can be made in "
        f"{', '.join(SHORT_PLACES)}: set RAY_TMPDIR to a folder of at most "
        f"{LONGEST_FOLDER - len('/ray')} letters that you may write"
    )


def _own_folder(path: str) -> bool:
    """Make a folder of this user's; False if it cannot be, or another's is in its place."""
    try:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def _spilling(usual: str) -> dict[str, str]:
    """Objects that memory does not hold still go where the user wanted them, where the room is."""
    try:
        folder = Path(usual) / "spilled"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}
    return {"object_spilling_directory": str(folder)}


def _unanswered(host: str, port: int) -> str | None:
    """Why nothing answers at an address; None if something does."""
    until = time.monotonic() + SECONDS_TO_ANSWER
    hosts = [host]
    if host in ("localhost", "127.0.0.1", "::1"):
        # What Ray makes of it.
        hosts.append(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    while True:
        for each in hosts:
            try:
                socket.create_connection((each, port), timeout=SECONDS_TO_ANSWER).close()
                return None
            except socket.gaierror as error:
                return f"no host of that name is known here: {error.strerror}"
            except OSError as error:
                why = error.strerror or f"no answer within {SECONDS_TO_ANSWER:g} s"
        if time.monotonic() > until:
            return why
        time.sleep(SECONDS_BETWEEN_TRIES)


def _try_joining(address: str) -> None:
    """Let another process join first. Raises ConfigError saying why it could not.

    Ray ends the process itself where it finds no free port for it, without a word to Python, and
    prints a line for each of its tries.
    """
    # Not a second driver of the job that this process may be the command of.
    environment = {key: value for key, value in os.environ.items() if key != JOB_CONFIG}
    try:
        # No shell, this very Python, and an address that was checked.
        tried = subprocess.run(  # noqa: S603  # nosec B603
            [sys.executable, "-c", JOIN, address],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS_TO_JOIN,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"cluster.address={address!r} cannot be used: its head answers, and no process could "
            f"join within {SECONDS_TO_JOIN:g} s; look at `ray status` there"
        ) from error
    if tried.returncode:
        raise joining_refused(tried.stderr, address)


def _leave() -> None:
    """End what a refused start left connected: a second try must not meet it."""
    with suppress(Exception):
        ray.shutdown()


def _chain(error: BaseException) -> str:
    """The messages of an error and of all that it came from."""
    told: list[str] = []
    one: BaseException | None = error
    while one is not None:
        kind = type(one).__name__
        told.append(str(one) if kind == "Exception" else f"{kind}: {one}")
        one = one.__cause__ or one.__context__
    return "\n".join(told)


def _first_line(told: str) -> str:
    return next((line.strip() for line in told.splitlines() if line.strip()), "no reason given")

"""The environment of a job: Ray's token, sealed variables, the signal that stops it.

Ray writes a job's runtime environment, values and all, into the logs of every node and shows it in
its API. So the values travel in one variable that only holders of the token can open: the job's
process by `unseal` at its start, its workers by the same as Ray's `worker_process_setup_hook`.
"""

import base64
import json
import os
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from system.errors import ConfigError
from system.redaction import conceal, guard_outputs
from system.uris import expanded

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

VARIABLE = "PROMPTIDE_SEALED_ENVIRONMENT"
HOOK = "system.submission.job_environment.unseal"
PURPOSE = b"promptide: environment variables of a job"
DEFAULT_FILE = "~/.ray/auth_token"
SIGNAL = "RAY_JOB_STOP_SIGNAL"
STOPPING = {SIGNAL: "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}  # what Ray reads in a job's env


def values_of(names: Sequence[str]) -> dict[str, str]:
    """The values of variables in this environment. Raises ConfigError naming those not set."""
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigError(
            f"submit.env names {', '.join(missing)}, not set here; export it, or take it out"
        )
    return {name: os.environ[name] for name in names}


def seal(values: Mapping[str, str], token: str) -> str:
    """The values encrypted with the token, as text."""
    return str(_cipher(token).encrypt(json.dumps(dict(values)).encode()), "ascii")


def unseal() -> None:
    """Set the variables that were sealed for this process, if any; their values are not printed.

    Raises ConfigError when this node has no token, or another one.
    """
    sealed = os.environ.get(VARIABLE)
    if sealed is None:
        return
    token = ray_token()
    if token is None:
        raise ConfigError(f"{VARIABLE} cannot be opened: this node has no Ray token")
    cipher = _cipher(token)
    from cryptography.fernet import InvalidToken

    try:
        values = json.loads(cipher.decrypt(sealed.encode()))
    except InvalidToken as error:
        raise ConfigError(
            f"{VARIABLE} cannot be opened: the job was sent with another Ray token than this node's"
        ) from error
    os.environ.update(values)
    conceal(values)
    guard_outputs()


def _cipher(token: str) -> "Fernet":
    try:
        from cryptography.fernet import Fernet
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        raise ConfigError(
            "submit.env needs the package cryptography here and on every node: "
            "pip install 'promptide[submit]'"
        ) from error
    key = HKDF(SHA256(), length=32, salt=None, info=PURPOSE).derive(token.encode())
    return Fernet(base64.urlsafe_b64encode(key))


def ray_token() -> str | None:
    """The token of this process's environment; None where there is none or it is switched off.

    As in Ray: RAY_AUTH_TOKEN, then the file of RAY_AUTH_TOKEN_PATH, then ~/.ray/auth_token. Raises
    ConfigError if a file that is named cannot be read.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "disabled":
        return None
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if token:
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = expanded(named or DEFAULT_FILE)
    try:
        return file.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        if named:
            raise ConfigError(f"RAY_AUTH_TOKEN_PATH={named} cannot be read: {error}") from error
        return None


def hear_stop() -> None:
    """Restore the handler of the signal that stops a job, wherever its cluster was started.

    A cluster that was started in a script's background ignores Ctrl-C, its jobs inherit that, and
    such a job would go on until it is killed. Elsewhere than in a job nothing changes.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored and os.environ.get(SIGNAL) == STOPPING[SIGNAL]:
        signal.signal(signal.SIGINT, signal.default_int_handler)

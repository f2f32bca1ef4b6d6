"""Ray's token: the secret that all who talk to a cluster share, found where Ray finds it."""

import os
from pathlib import Path

from system.errors import ConfigError

DEFAULT_FILE = "~/.ray/auth_token"


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
    file = Path(named or DEFAULT_FILE).expanduser()
    try:
        return file.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        if named:
            raise ConfigError(f"RAY_AUTH_TOKEN_PATH={named} cannot be read: {error}") from error
        return None

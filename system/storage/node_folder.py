"""Where a user's files lie on a node's own disk."""

import os
import tempfile
from pathlib import Path


def temporary_folder(name: str) -> Path:
    """A folder of this user on the node's disk for temporary files (`TMPDIR`)."""
    return Path(tempfile.gettempdir()) / f"promptide-{user_id()}" / name


def user_id() -> int:
    """The number of the user that this process runs as; 0 where there is none."""
    return os.getuid() if hasattr(os, "getuid") else 0

"""`promptide submit`: any other command as a job on a cluster."""

from collections.abc import Sequence

from rich.console import Console

from system.cli import COMMANDS
from system.submission import session


def submit(arguments: Sequence[str], file: str | None, console: Console) -> None:
    """Send a command to a cluster, or look after one that was sent."""
    session.submit(arguments, file, [name for name in COMMANDS if name != "submit"], console)

"""`promptide stream`: append tasks to a live stream, close it, or show where a run stands."""

import os
from collections.abc import Sequence

from rich.console import Console

from system.cli.prepared_experiment import with_prepared_options
from system.config.compose import compose, given_options
from system.errors import ConfigError
from system.report.terminal.stream_table import print_stream
from system.storage.run_directory import RunDirectory

ACTIONS = ("append", "close", "status")
WAIT = "--wait"
USAGE = f"promptide stream {'|'.join(ACTIONS)} [key=value ...] [{WAIT}] [TASK ...]"


def stream(arguments: Sequence[str], file: str | None, console: Console) -> None:
    """Carry out one action; overrides say which run, other words of `append` are tasks.

    Raises ConfigError for words that are none of it, and what the action raises.
    """
    action, *rest = arguments or [""]
    overrides = [word for word in rest if "=" in word]
    words = [word for word in rest if "=" not in word]
    tasks = [word for word in words if word != WAIT]
    if action not in ACTIONS or (words and action != "append"):
        raise ConfigError(f"stream {' '.join(arguments)}: write `{USAGE}`")
    experiment = compose(overrides, file)
    experiment = with_prepared_options(experiment, given_options(overrides, file))
    auth = RunDirectory.of(experiment).cluster().get("auth")
    if auth:
        # Ray reads it when it is imported, and would else meet the run's Ray without its token.
        os.environ.setdefault("RAY_AUTH_MODE", auth)
    from actors.live import append, close, status

    if action == "append":
        pending = append(experiment, tasks, wait=WAIT in words)
        console.print(f"pending: {', '.join(pending)}", highlight=False, soft_wrap=True)
    elif action == "close":
        close(experiment)
        console.print("closed: the run ends after the tasks that the stream has")
    else:
        look = status(experiment)
        print_stream(look.run, look.status, look.epochs, look.source, console)

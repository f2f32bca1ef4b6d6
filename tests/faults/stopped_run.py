"""The command `promptide`, one rank of whose run stops itself at a given place, once.

The place comes by the environment: from outside no signal finds a phase of a few milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train

from actors.stream_run import StreamRun
from system import app
from system.engine.whereabouts import here

RANK, PHASES, STRUCK = "PROMPTIDE_STOP_RANK", "PROMPTIDE_STOP_PHASES", "PROMPTIDE_STOP_STRUCK"


def stopping_loop(config: dict[str, Any]) -> None:
    """The run's loop; the rank stops when its phases are those, unless it did so before."""
    place, struck = here(), Path(config["struck"])
    move = place.move

    def moving() -> None:
        move()
        if ": ".join(place.phases) == config["phases"] and not struck.exists():
            struck.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)

    if ray.train.get_context().get_world_rank() == config["rank"]:
        setattr(place, "move", moving)  # noqa: B010  # of this worker alone
    config["loop"](config["config"])


def main() -> int:
    """Carry out the command line's command."""
    loop_of = StreamRun.loop

    def stopping(self: StreamRun) -> tuple[Callable[[dict[str, Any]], None], dict[str, Any]]:
        loop, config = loop_of(self)
        return stopping_loop, {
            "loop": loop,
            "config": config,
            "rank": int(os.environ[RANK]),
            "phases": os.environ[PHASES],
            "struck": os.environ[STRUCK],
        }

    setattr(StreamRun, "loop", stopping)  # noqa: B010
    return app.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

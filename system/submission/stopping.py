"""How a job is stopped: as by Ctrl-C, so that what it has is kept and the same command goes on."""

import os
import signal

SIGNAL = "RAY_JOB_STOP_SIGNAL"
STOPPING = {SIGNAL: "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}  # what Ray reads in a job's env


def hear_stop() -> None:
    """Let a job hear the signal that stops it, wherever its cluster was started.

    A cluster that was started in a script's background ignores Ctrl-C, its jobs inherit that, and
    such a job would go on until it is killed. Elsewhere than in a job nothing changes.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored and os.environ.get(SIGNAL) == STOPPING[SIGNAL]:
        signal.signal(signal.SIGINT, signal.default_int_handler)

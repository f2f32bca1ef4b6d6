"""The process of one rank, looked at and ended from another process of its node.

It imports little, as Ray may have to start a process for it on a node that is in trouble.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

SECONDS_TO_DUMP = 2.0
SECONDS_BETWEEN_LOOKS = 0.05
#: States of /proc/<pid>/stat in which a process does nothing, not even for a signal.
STILL = {
    "T": "its process is stopped (SIGSTOP)",
    "t": "its process is held by a debugger",
    "Z": "its process has ended",
    "X": "its process has ended",
}
GONE = "its process is gone"
BLOCKED = "a thread waits in the kernel, for a disk, a share or a device"
NO_STACKS = "no stacks: {}"


@dataclass(frozen=True)
class RankProcess:
    """How the process of a rank is found, from its node; numbers are of its open files."""

    pid: int
    node: str
    mark: str  # the first line of the file with its place: no other process has it
    place: int
    stacks: int
    dump: int  # the signal for its stacks


@dataclass(frozen=True)
class Finding:
    """What was seen of a rank's process: why it cannot go on, where it is, its threads' stacks."""

    trouble: str | None  # None: it runs or sleeps
    place: str | None  # None: not known
    stacks: str


def look_into(process: RankProcess) -> Finding:
    """Look into a process of this node; it is left as it is, but for the signal to dump.

    A process that is stopped still tells its place, and no stacks.
    """
    if not os.path.isdir("/proc/self/fd"):
        return Finding(None, None, NO_STACKS.format("this system has no /proc"))
    place = _place(process)
    if place is None:
        return Finding(GONE, None, NO_STACKS.format(GONE))
    states = _states(process.pid)
    if states[0] in STILL:
        return Finding(STILL[states[0]], place, NO_STACKS.format(STILL[states[0]]))
    before = len(_read(process, process.stacks))
    with suppress(ProcessLookupError):
        os.kill(process.pid, process.dump)
    until = time.monotonic() + SECONDS_TO_DUMP
    size = before
    while time.monotonic() < until:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        last, size = size, len(_read(process, process.stacks))
        if size == last > before:
            break
    text = _read(process, process.stacks)[before:].decode(errors="replace")
    text = text or NO_STACKS.format("its process did not answer the signal")
    return Finding(BLOCKED if "D" in states else None, place, text)


def end(process: RankProcess) -> bool:
    """Kill a process of this node, stopped or not; whether it was there."""
    if process.pid == os.getpid() or _place(process) is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
        return True
    return False


def _read(process: RankProcess, number: int) -> bytes:
    try:
        with open(f"/proc/{process.pid}/fd/{number}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _place(process: RankProcess) -> str | None:
    """Where the process is; None if it is gone, and its number perhaps another's by now."""
    mark, _, place = _read(process, process.place).partition(b"\n")
    if mark.decode(errors="replace") != process.mark:
        return None
    return place.partition(b"\0")[0].decode(errors="replace")


def _states(pid: int) -> list[str]:
    """The states of the process and of its threads."""
    states = []
    with suppress(OSError):
        for path in (f"/proc/{pid}", *(e.path for e in os.scandir(f"/proc/{pid}/task"))):
            with suppress(OSError), open(f"{path}/stat", "rb") as file:  # a thread may have ended
                states.append(file.read().rpartition(b")")[2].split()[0].decode())
    return states or ["X"]

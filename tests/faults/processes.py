"""The processes of one driver, found by a mark in their environment, orphans among them too."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "PROMPTIDE_FAULTS"


@dataclass(frozen=True)
class Process:
    """A live process: its number and what it calls itself."""

    pid: int
    command: str

    def send(self, number: signal.Signals) -> None:
        """Send a signal; the process may have ended meanwhile."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def parent(pid: int) -> int:
    """The process that started a live one; 0 if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def marked(mark: str) -> list[Process]:
    """All live processes that were started with `MARK=mark`, whoever their parent is by now."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # gone since
        if state not in "ZX":
            found.append(Process(int(entry.name), command))
    return found


def named(mark: str, name: str) -> list[Process]:
    """Those of them whose command holds `name`, oldest first."""
    return sorted((p for p in marked(mark) if name in p.command), key=lambda p: p.pid)

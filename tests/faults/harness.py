"""Runs the small stream as a command and disturbs it at random points, by a seed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain, cycle
from pathlib import Path

from actors.starting import RAY_WAS_LATE
from system.engine.checkpoint import FILE as CHECKPOINT
from tests.faults.processes import MARK, Process, marked, named
from tests.integration.small_stream import overrides

WORKER, ACTOR = "ray::RayTrainWorker", "ray::TaskStreamServer"
MOST_LATE = 10  # starts of a run that Ray may fail, on a machine that is full
DEADLINE = 600.0  # seconds for one step; a loaded machine takes its time to start processes
STALL = 30  # seconds until a run's watchdog ends ranks that stand still
KILLS, DISTURBANCES = ("worker", "actor", "driver"), ("tear", "pause", "storage", "stall", "spoil")
KILLING = (*KILLS, "tear", "spoil")  # a file is torn by the death of who writes it
#: After each kind came once: mostly the actor, which is back in seconds; a worker group or a driver
#: takes as long as torch needs to be imported.
ROUNDS = (
    (*("actor",) * 5, "tear", "worker", "pause", "stall", "spoil"),
    (*("actor",) * 5, "tear", "driver", "storage"),
)
LONGEST_REST = {"actor": 0.5, "tear": 0.5}  # seconds before a fault; 2 before one of another kind


@dataclass
class FaultyRun:
    """One run of the stream, and what is done to it."""

    root: Path
    name: str
    random: random.Random
    workers: int = 1
    address: str = "local"
    settings: tuple[str, ...] = ()
    module: str = "system.app"  # what stands for the command `promptide`
    environment: Mapping[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    starts: int = 0

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.root / "runs" / self.name

    @property
    def journal(self) -> Path:
        """Where the records of the stream lie."""
        return self.directory / "stream"

    @property
    def case(self) -> str:
        """What to say where the run is not as it should be."""
        return f"{self.name} after {self.done}"

    def complete(self, faults: list[str], when: Callable[[], bool] | None = None) -> None:
        """Start the command as often as it takes, with all of the faults, and let it end.

        `when` is a fault of another kind: called until it says that it has struck.
        """
        pending, late = list(faults), 0
        while True:
            driver = self._start()
            try:
                while pending and driver.poll() is None:
                    if self._strike(pending[0], driver):
                        self.done.append(pending.pop(0))
                while when is not None and driver.poll() is None:
                    if when():
                        when = None
                    time.sleep(0.05)
                output, _ = driver.communicate(timeout=DEADLINE)
            finally:
                for process in marked(self.name) if driver.poll() is None else ():
                    process.send(signal.SIGKILL)
            if driver.returncode == 0:
                return
            late += RAY_WAS_LATE in output
            if RAY_WAS_LATE in output and late < MOST_LATE:
                continue  # nothing of the run's: a full machine, and the command says so
            assert driver.returncode == -signal.SIGKILL, f"after {self.done}:\n{output}"

    def orphans(self) -> list[Process]:
        """Processes that are still there after the time that Ray takes to notice a death."""
        until = time.monotonic() + 60
        while (left := marked(self.name)) and time.monotonic() < until:
            time.sleep(0.2)
        return left

    def _start(self) -> "subprocess.Popen[str]":
        self.starts += 1
        cluster = (
            f"cluster.workers={self.workers}",
            f"cluster.address={self.address}",
            "cluster.max_failures=-1",
            f"cluster.stall_seconds={STALL}",
            *self.settings,
        )
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        return subprocess.Popen(
            [sys.executable, "-m", self.module, "run", *overrides(self.root, self.name, *cluster)],
            env=environment | {MARK: self.name, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _strike(self, fault: str, driver: "subprocess.Popen[str]") -> bool:
        """Wait for a victim and a random moment, then disturb; False if the run ended before."""
        target = ACTOR if fault in ("actor", "tear") else WORKER
        victim = self._wait(lambda: named(self.name, target), driver)
        if not victim or not self._idle(
            self.random.uniform(0.0, LONGEST_REST.get(fault, 2.0)), driver
        ):
            return False
        if fault == "driver":
            driver.kill()
        elif fault == "pause":
            victim[-1].send(signal.SIGSTOP)
            self._idle(self.random.uniform(0.5, 3.0), driver)
            victim[-1].send(signal.SIGCONT)
        elif fault == "stall":  # nobody wakes it: the run's own watchdog has to end it
            victim[-1].send(signal.SIGSTOP)
            self._wait(lambda: [] if victim[-1] in marked(self.name) else victim, driver)
        elif fault == "tear":
            self._tear(victim[-1])
        elif fault == "spoil":
            self._spoil(victim[-1])
        elif fault == "storage":
            self._take_storage_away(driver)
        else:
            victim[-1].send(signal.SIGKILL)
        return True

    def _tear(self, actor: Process) -> None:
        """The death of the actor in the middle of a write, as an object store may show it."""
        actor.send(signal.SIGSTOP)
        records = sorted(self.journal.glob("*.json"))
        # a second one only after the stream was opened: nothing writes behind a torn record
        if records and _is_whole(whole := records[-1].read_bytes()):
            torn = self.journal / f"{len(records):08d}.json"
            torn.write_bytes(whole[: self.random.randrange(len(whole))])
        actor.send(signal.SIGKILL)

    def _spoil(self, worker: Process) -> None:
        """The death of a worker whose checkpoint is torn, or has one wrong bit."""
        worker.send(signal.SIGSTOP)
        file = self.directory / CHECKPOINT
        if file.exists():
            data = bytearray(file.read_bytes())
            data[self.random.randrange(len(data))] ^= 1
            kept = len(data) if self.random.random() < 0.5 else self.random.randrange(len(data))
            file.write_bytes(data[:kept])
        worker.send(signal.SIGKILL)

    def _take_storage_away(self, driver: "subprocess.Popen[str]") -> None:
        away = self.directory / "stream-away"
        self.journal.rename(away)
        self.journal.write_text("in the way")
        self._idle(self.random.uniform(0.5, 3.0), driver)
        self.journal.unlink()
        away.rename(self.journal)

    def _wait(
        self, look: Callable[[], list[Process]], driver: "subprocess.Popen[str]"
    ) -> list[Process]:
        until = time.monotonic() + DEADLINE
        while driver.poll() is None:
            if found := look():
                return found
            assert time.monotonic() < until, f"no victim within {DEADLINE} s after {self.done}"
            time.sleep(0.05)
        return []

    def _idle(self, seconds: float, driver: "subprocess.Popen[str]") -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until and driver.poll() is None:
            time.sleep(0.02)
        return driver.poll() is None


def _is_whole(record: bytes) -> bool:
    try:
        json.loads(record)
    except ValueError:
        return False
    return True


def plan(seed: int, kills: int) -> list[str]:
    """Which faults, in which order, until `kills` of them kill: each kind once, kills first."""
    rng = random.Random(seed)
    faults: list[str] = []
    for kinds in chain((KILLS, DISTURBANCES), cycle(ROUNDS)):
        for fault in rng.sample(kinds, len(kinds)):
            if count_kills(faults) == kills:
                return faults
            faults.append(fault)
    raise AssertionError("the rounds never end")


def count_kills(faults: list[str]) -> int:
    """How many of the faults are the death of a process."""
    return sum(fault in KILLING for fault in faults)


def summary(done: list[str]) -> str:
    """The faults by kind, as one line."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(done).items()))

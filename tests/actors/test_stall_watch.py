"""The watchdog on progress, on pulses that a test makes and on real processes that hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from actors import stall_watch
from actors.failures import Retries
from actors.pulse import Pulse, Pulses
from actors.rank_process import Finding, RankProcess, end, look_into
from actors.stall_watch import LONGEST_LOOK, StalledError, StallWatch
from system.storage.files import Folder

LIMIT = 20.0
START = "ab12"


def pulse(rank: int, number: int, moves: int, place: str = "train", **more: Any) -> Pulse:
    process = RankProcess(1000 + rank, "node", START, 3, 4, 12)
    return Pulse(rank, process, number, moves, place, **more)


@dataclass
class Watched:
    """A watch whose clock and whose nodes are a test's."""

    root: Path
    findings: dict[int, Finding | None] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.watch = StallWatch(
            LIMIT, Folder.of(self.root), self.said.append, self.on_nodes, lambda: self.now
        )

    def on_nodes(self, function: Callable[..., Any], pulses: Sequence[Pulse]) -> list[Any]:
        if function is end:
            self.ended += [pulse.rank for pulse in pulses]
            return [True for _ in pulses]
        found = Finding(None, None, "stack of nothing")
        return [self.findings.get(pulse.rank, found) for pulse in pulses]

    def look(self, seconds: float, *pulses: Pulse) -> StalledError | None:
        """What was found after so many seconds, and these pulses."""
        self.now += seconds
        self.watch.look(pulses)
        return self.watch.found

    def log(self) -> str:
        return (self.root / f"stall-{START}.log").read_text()


def test_a_group_that_moves_is_left_alone_however_slow_its_clock(tmp_path: Path) -> None:
    """One rank may stand where it waits for the others: only all of them are no progress."""
    watched = Watched(tmp_path)
    for beat in range(100):
        found = watched.look(1, pulse(0, beat, beat // 15), pulse(1, beat, 0))
        assert found is None
    assert watched.ended == []


def test_when_no_rank_moves_the_one_outside_of_a_collective_is_named(tmp_path: Path) -> None:
    """The others wait for it."""
    watched = Watched(tmp_path)
    places = ("train: gather, task 'food', step 3", "evaluate, task 'food'")
    for beat in range(100):
        if watched.look(1, *(pulse(rank, beat, 7, places[rank]) for rank in (0, 1))):
            break
    assert beat == LIMIT
    message = str(watched.watch.found)
    assert "rank 1 stands still since 20 s in [evaluate, task 'food']" in message
    assert "rank 0" not in message
    assert "\n" not in message
    assert watched.ended == [0, 1]
    assert len(watched.said) == 1
    for text in ("rank 0", places[0], "rank 1", places[1], "stack of nothing"):
        assert text in watched.log()


def test_a_process_that_does_not_beat_is_named_though_others_move(tmp_path: Path) -> None:
    """A rank that is stopped moves no more; its last place comes from its node."""
    watched = Watched(tmp_path)
    watched.findings[1] = Finding("its process is stopped (SIGSTOP)", "train, step 9", "none")
    watched.look(1, pulse(0, 0, 0), pulse(1, 0, 0))
    for beat in range(1, 100):
        if watched.look(1, pulse(0, beat, beat), pulse(1, 0, 0)):
            break
    assert beat == LIMIT
    message = str(watched.watch.found)
    assert "in [train, step 9], its process is stopped (SIGSTOP)" in message
    assert "rank 0" not in message


def test_who_waits_for_a_task_does_not_stall(tmp_path: Path) -> None:
    """A live stream may have no task for days."""
    watched = Watched(tmp_path)
    for beat in range(100):
        assert watched.look(1, pulse(0, beat, 0, waits=True), pulse(1, beat, 0)) is None


def test_who_has_ended_does_not_stall(tmp_path: Path) -> None:
    """Ranks do not end at one moment: rank 0 has more to write."""
    watched = Watched(tmp_path)
    for beat in range(100):
        assert watched.look(1, pulse(0, beat, beat), pulse(1, 0, 0, ended=True)) is None


def test_time_in_which_the_driver_slept_does_not_count(tmp_path: Path) -> None:
    """A notebook that was shut, or a driver that was stopped itself, ends no run."""
    watched = Watched(tmp_path)
    watched.look(1, pulse(0, 0, 0))
    assert watched.look(3600, pulse(0, 0, 0)) is None
    for beat in range(int(LIMIT - LONGEST_LOOK) - 1):
        assert watched.look(1, pulse(0, beat, 0)) is None
    assert watched.look(1, pulse(0, 99, 0)) is not None


def test_an_actor_that_forgot_the_pulses_gives_no_rank_a_new_life(tmp_path: Path) -> None:
    """It starts anew with an empty memory, and a stopped rank never beats again."""
    watched = Watched(tmp_path)
    watched.look(1, pulse(0, 0, 0), pulse(1, 0, 0))
    for beat in range(1, 100):
        if watched.look(1, pulse(0, beat, beat)):
            break
    assert beat == LIMIT
    assert "rank 1" in str(watched.watch.found)


def test_a_stall_is_found_once_and_counts_as_a_death(tmp_path: Path) -> None:
    """Restarts are bounded by cluster.max_failures; then the run ends with the stall's line."""
    watched = Watched(tmp_path)
    for beat in range(100):
        watched.look(1, pulse(0, beat, 0))
    found = watched.watch.found
    assert found is not None
    assert watched.ended == [0]
    retries = Retries(1, sleep=lambda seconds: None)
    retries.wait_after(found, 0)
    with pytest.raises(StalledError, match="rank 0"):
        retries.wait_after(found, 0)


def test_storage_that_refuses_the_stacks_keeps_no_stalled_rank_alive(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "file" / "logs")
    (tmp_path / "file").write_text("in the way")
    for beat in range(100):
        watched.look(1, pulse(0, beat, 0))
    assert watched.ended == [0]
    assert "could not be written" in watched.said[-1]


def test_without_a_group_the_stall_ends_this_process_s_own_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted, and never killed: the driver has to say why."""
    interrupts: list[int] = []
    monkeypatch.setattr(stall_watch, "interrupt_main", lambda: interrupts.append(1))
    watched = Watched(tmp_path)
    own = replace(pulse(0, 0, 0).process, pid=os.getpid())
    for beat in range(100):
        watched.look(1, replace(pulse(0, beat, 0), process=own))
    assert (interrupts, watched.ended, watched.watch.interrupted) == ([1], [], True)
    assert not end(own)


def test_pulses_keep_the_newest_of_each_rank_and_start() -> None:
    """Those of a group that is over must not pass for the next one's."""
    pulses = Pulses()
    pulses.put("one", pulse(0, 5, 5))
    pulses.put("one", pulse(0, 4, 4))  # overtaken on its way
    pulses.put("one", pulse(1, 1, 1))
    pulses.put("two", pulse(0, 1, 1))
    assert [(p.rank, p.number) for p in pulses.of("one")] == [(0, 5), (1, 1)]
    pulses.forget("one")
    assert pulses.of("one") == []
    assert len(pulses.of("two")) == 1


HANGING = """
import faulthandler, signal, sys, tempfile, time
from system.engine.whereabouts import Whereabouts
place, stacks = Whereabouts(), tempfile.TemporaryFile()
faulthandler.register(signal.SIGUSR2, stacks, all_threads=True)
place.task = "food"
shared = place.share("ab12")
def hang_in_here():
    print(shared.fileno(), stacks.fileno(), flush=True)
    time.sleep(600)
with place.doing("train"):
    hang_in_here()
"""


@pytest.fixture
def hanging() -> Iterator[RankProcess]:
    """A process that hangs in the training of a task."""
    command = [sys.executable, "-c", HANGING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            place, stacks = map(int, process.stdout.readline().split())
            yield RankProcess(process.pid, "node", START, place, stacks, int(signal.SIGUSR2))
        finally:
            process.kill()


def test_a_process_that_hangs_shows_its_place_and_its_stacks(hanging: RankProcess) -> None:
    """And goes on hanging: a look changes nothing, and may be taken twice."""
    for _ in range(2):
        finding = look_into(hanging)
        assert finding.trouble is None
        assert finding.place == "train, task 'food'"
        assert finding.stacks.count("in hang_in_here") == 1


def test_a_process_that_is_stopped_shows_its_place_and_can_be_ended(hanging: RankProcess) -> None:
    """It runs no handler, so that no signal but SIGKILL reaches it."""
    os.kill(hanging.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, hanging.pid, os.WSTOPPED | os.WNOWAIT)
    finding = look_into(hanging)
    assert finding.trouble == "its process is stopped (SIGSTOP)"
    assert finding.place == "train, task 'food'"
    assert end(hanging)
    os.waitid(os.P_PID, hanging.pid, os.WEXITED | os.WNOWAIT)
    assert look_into(hanging).trouble == "its process is gone"
    assert not end(hanging)


def test_another_process_of_the_same_number_is_neither_looked_at_nor_ended(
    hanging: RankProcess,
) -> None:
    """Numbers of processes come again."""
    other = replace(hanging, mark="cd34")
    assert look_into(other).place is None
    assert not end(other)
    assert look_into(hanging).place == "train, task 'food'"

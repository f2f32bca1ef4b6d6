"""A worker's pulse: it beats while the worker lives, and says when its loop has ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray
import ray.train

from actors import beating as module
from actors.beating import beating_loop
from actors.pulse import Pulse
from actors.rank_process import look_into
from system.engine.whereabouts import WAIT, here


class _Context:
    """Of a worker, or of Ray in its process."""

    def get_world_rank(self) -> int:
        return 3

    def get_node_id(self) -> str:
        return "node"


@dataclass
class Board:
    """Keeps the pulses that are posted."""

    start: str = "ab12"
    posted: list[Pulse] = field(default_factory=list)

    def post(self, pulse: Pulse) -> None:
        self.posted.append(pulse)

    def wait_for(self, beats: int) -> Pulse:
        until = time.monotonic() + 30
        while len(self.posted) < beats:
            assert time.monotonic() < until, "the heart stood still"
            time.sleep(0.005)
        return self.posted[-1]


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    """A board, in a process that Ray takes for that of rank 3."""
    monkeypatch.setattr(ray.train, "get_context", _Context)
    monkeypatch.setattr(ray, "get_runtime_context", _Context)
    monkeypatch.setattr(ray, "wait", lambda pending, timeout: (pending, []))
    monkeypatch.setattr(module, "SECONDS_BETWEEN_BEATS", 0.01)
    return Board()


def test_each_beat_has_the_place_and_the_last_one_says_that_it_ended(board: Board) -> None:
    """Else the watchdog takes a rank that has ended for one that stands still."""

    def loop(config: dict[str, Any]) -> None:
        assert config == {"a": 1}
        here().task = "food"
        with here().doing("train"):
            seen = board.wait_for(len(board.posted) + 2)
            assert (seen.rank, seen.place) == (3, "train, task 'food'")
            assert not seen.waits
        with here().doing("lease"), here().doing(WAIT):
            assert board.wait_for(len(board.posted) + 2).waits

    beating_loop({"loop": loop, "config": {"a": 1}, "board": board})
    numbers = [pulse.number for pulse in board.posted]
    assert numbers == sorted(set(numbers))
    assert [pulse.ended for pulse in board.posted] == [False] * (len(numbers) - 1) + [True]
    assert board.posted[0].moves < board.posted[-1].moves


def test_a_loop_that_fails_ends_its_pulse_too(board: Board) -> None:
    """What it failed of is what the user reads, and not that the rank stood still."""

    def loop(config: dict[str, Any]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        beating_loop({"loop": loop, "config": {}, "board": board})
    assert board.posted[-1].ended


def test_the_stacks_of_the_loop_can_be_read_while_it_runs_and_not_after(board: Board) -> None:
    """After it the signal would end the process, which in a run without workers is the driver."""
    kept: list[Pulse] = []

    def standing_here(config: dict[str, Any]) -> None:
        with here().doing("evaluate"):
            kept.append(board.wait_for(2))
            finding = look_into(kept[0].process)
            assert finding.place == "evaluate"
            assert "in standing_here" in finding.stacks

    beating_loop({"loop": standing_here, "config": {}, "board": board})
    assert look_into(kept[0].process).place is None

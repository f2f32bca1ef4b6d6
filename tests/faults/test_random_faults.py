"""Whatever dies, pauses or fails, and whenever: the same figures, each task once, no replay."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from tests.faults.harness import DISTURBANCES, KILLS, FaultyRun, count_kills, plan, summary
from tests.faults.outcome import assert_undisturbed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

FAULTS_A_RUN = 12  # the small stream is over soon: more faults need more runs


def test_random_faults_change_nothing(
    undisturbed: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    kills, seed = pytestconfig.getoption("kills"), pytestconfig.getoption("fault_seed")
    faults = plan(seed, kills)
    done: list[str] = []
    starts = number = 0
    started = time.monotonic()
    while len(done) < len(faults):
        name = f"faulty-{seed}-{number}"
        run = FaultyRun(undisturbed, name, random.Random(f"{seed} {number}"))
        run.complete(faults[len(done) :][:FAULTS_A_RUN])
        done += run.done
        starts += run.starts
        number += 1
        assert_undisturbed(undisturbed, run)
        assert run.orphans() == [], run.case
    with capsys.disabled():
        Console().print(
            f"{count_kills(done)} kills among {len(done)} faults ({summary(done)}) in {number} "
            f"runs, {starts} starts, {time.monotonic() - started:.0f} s"
        )


def test_a_plan_has_as_many_kills_as_asked_and_each_kind_early() -> None:
    for kills in (1, 3, 7, 50):
        assert count_kills(plan(0, kills)) == kills
    assert set(plan(0, 3)) == set(KILLS)
    assert set(plan(1, 6)) == {*KILLS, *DISTURBANCES}
    counts = Counter(plan(2, 50))
    assert counts["actor"] > counts["worker"] + counts["driver"]

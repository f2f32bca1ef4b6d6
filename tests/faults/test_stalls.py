"""A rank stopped by SIGSTOP, in each phase: the log names rank and place, and the run goes on."""

import os
import random
from pathlib import Path

import pytest

from tests.faults.harness import STALL, FaultyRun
from tests.faults.outcome import assert_undisturbed
from tests.faults.stopped_run import PHASES, RANK, STRUCK

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

#: By what docs/debugging.md calls it: the rank that stops, and its phases.
STOPS = {
    "lease": (1, "lease"),
    "training": (1, "train"),
    "gather": (1, "train: gather"),
    "checkpoint": (0, "train: checkpoint"),
    "evaluation": (1, "evaluate"),
    "commit": (0, "commit"),
}


@pytest.mark.parametrize("kind", STOPS)
def test_a_stopped_rank_is_named_and_ended_and_changes_nothing(
    undisturbed: Path, tmp_path: Path, kind: str, pytestconfig: pytest.Config
) -> None:
    """Else the run stands still for as long as nobody looks, and then nobody knows where.

    Of few `--kills` so many places, which ones by `--fault-seed`: each takes a minute and more.
    """
    kills, seed = pytestconfig.getoption("kills"), pytestconfig.getoption("fault_seed")
    if kind not in random.Random(seed).sample(list(STOPS), min(kills, len(STOPS))):
        pytest.skip(f"--kills={kills} --fault-seed={seed} takes other places")
    rank, phases = STOPS[kind]
    run = FaultyRun(
        undisturbed,
        f"stopped-{kind}",
        random.Random(0),
        workers=2,
        module="tests.faults.stopped_run",
        environment={
            RANK: str(rank),
            PHASES: phases,
            STRUCK: str(tmp_path / "struck"),
            "PYTHONPATH": os.pathsep.join((os.getcwd(), os.environ.get("PYTHONPATH", ""))),
        },
    )
    run.complete([])
    assert (tmp_path / "struck").exists(), "no rank was ever there"
    assert run.starts == 1, "the driver did not have to start again"
    logs = [file.read_text() for file in (run.directory / "logs").glob("stall-*.log")]
    (stall,) = (text for text in logs if "is stopped (SIGSTOP)" in text)
    assert f"cluster.stall_seconds={STALL}" in stall
    cause = next(line for line in stall.splitlines() if line.startswith("cause: "))
    assert f"rank {rank} stands still" in cause
    assert f"[{phases}" in cause
    assert f"rank {1 - rank}" not in cause
    assert 'File "' in stall, "the other rank's stack"
    own = [file.read_text() for file in (run.directory / "logs").glob(f"rank-{rank}-start-*.log")]
    assert any(f"[{phases.removesuffix(': gather')}" in text for text in own)
    assert_undisturbed(undisturbed, run)
    assert run.orphans() == [], run.case

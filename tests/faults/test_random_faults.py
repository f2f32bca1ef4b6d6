"""Whatever dies, pauses or fails, and whenever: the same figures, each task once, no replay."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from system.storage.writer_lock import LOCK_NAME
from tests.faults.harness import FaultyRun, plan, summary
from tests.integration.small_stream import TASKS, adapters, figures, prepare_small_stream

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

FAULTS_A_RUN = 5  # the small stream is over soon: more faults need more runs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with data and backbone, and a run `reference`, made by the same command.

    Without a worker group it starts sooner, and has the same figures.
    """
    root = tmp_path_factory.mktemp("faults")
    prepare_small_stream(root)
    FaultyRun(root, "reference", random.Random(0), workers=0).complete([])
    return root


def metrics(root: Path, name: str) -> dict[str, object]:
    """All of metrics.json that does not name the run or its clock."""
    values: dict[str, object] = json.loads((root / "runs" / name / "metrics.json").read_text())
    return {key: value for key, value in values.items() if key not in ("run", "wall_seconds")}


def committed(run: FaultyRun) -> Counter[str]:
    """How often the journal says that each task was committed."""
    records = [json.loads(file.read_bytes()) for file in sorted(run.journal.glob("*.json"))]
    return Counter(r["payload"]["task"] for r in records if r["kind"] == "commit")


def test_random_faults_change_nothing(
    undisturbed: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    kills, seed = pytestconfig.getoption("kills"), pytestconfig.getoption("fault_seed")
    faults = plan(seed, kills)
    done: list[str] = []
    starts = number = 0
    while len(done) < kills:
        name = f"faulty-{seed}-{number}"
        run = FaultyRun(undisturbed, name, random.Random(f"{seed} {number}"))
        run.complete(faults[len(done) :][:FAULTS_A_RUN])
        done += run.done
        starts += run.starts
        number += 1
        case = f"{name}, seed {seed}, after {run.done}"
        assert adapters(undisturbed, name) == adapters(undisturbed, "reference"), case
        assert figures(undisturbed, name) == figures(undisturbed, "reference"), case
        assert metrics(undisturbed, name) == metrics(undisturbed, "reference"), case
        assert metrics(undisturbed, name)["replayed_rows"] == 0, case
        assert committed(run) == Counter(dict.fromkeys(TASKS, 1)), case
        assert run.orphans() == [], case
        assert not (run.directory / LOCK_NAME).exists(), case
    with capsys.disabled():
        Console().print(f"{len(done)} faults ({summary(done)}) in {number} runs, {starts} starts")

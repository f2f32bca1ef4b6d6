"""What has to hold of a run, whatever was done to it."""

import json
from collections import Counter
from pathlib import Path

from system.storage.run_directory import CLUSTER
from system.storage.writer_lock import LOCK_NAME
from tests.faults.harness import FaultyRun
from tests.integration.small_stream import LEFT_OUT, TASKS, adapters, figures


def assert_undisturbed(root: Path, run: FaultyRun) -> None:
    """The same figures as the run `reference`, to the bit; each task once; no replay; no lock."""
    name, case = run.name, run.case
    assert adapters(root, name) == adapters(root, "reference"), case
    assert figures(root, name) == figures(root, "reference"), case
    assert metrics(root, name) == metrics(root, "reference"), case
    assert metrics(root, name)["replayed_rows"] == 0, case
    assert committed(run) == Counter(dict.fromkeys(TASKS, 1)), case
    for leftover in (LOCK_NAME, CLUSTER):
        assert not (run.directory / leftover).exists(), case


def metrics(root: Path, name: str) -> dict[str, object]:
    """All of metrics.json that does not name the run or its clock."""
    values: dict[str, object] = json.loads((root / "runs" / name / "metrics.json").read_text())
    return {key: value for key, value in values.items() if key not in LEFT_OUT}


def committed(run: FaultyRun) -> Counter[str]:
    """How often the journal says that each task was committed."""
    records = [json.loads(file.read_bytes()) for file in sorted(run.journal.glob("*.json"))]
    return Counter(r["payload"]["task"] for r in records if r["kind"] == "commit")

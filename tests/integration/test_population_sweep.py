"""Population based training over whole streams: forked, killed, repeated from scratch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.run import carry_out
from system.cli.sweep import sweep
from system.config.compose import compose
from tests.integration.small_stream import LEFT_OUT, adapters, figures, overrides
from tests.report.page_reader import PageReader

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DEADLINE = 600  # seconds; a loaded machine takes its time to start processes
KEYS = ("method.layer_alignment.weight", "method.task_contrast.weight")
TUNE = (
    "+tune={space:{method:{rank:{choice:[1,2,4]},layer_alignment:{weight:{loguniform:[0.01,1]}},"
    "task_contrast:{weight:{choice:[0.0,0.1,1.0]}}}},search:random,samples:3,scheduler:pbt,"
    f"pbt:{{keys:[{','.join(KEYS)}]}},max_concurrent:1}}"
)


def sweep_overrides(root: Path, run_name: str) -> list[str]:
    return overrides(root, run_name, "cluster.workers=0", TUNE)


def table(root: Path, run_name: str) -> list[dict[str, Any]]:
    """What has to be the same however a sweep came to its end."""
    columns = ["setting", "values", "parent", "forked_after", "status", "stopped_after"]
    columns += ["figure", "figure_by_task"]
    trials = pq.read_table(root / "runs" / run_name / "trials.parquet", columns=columns)
    return list(trials.to_pylist())


def trial_of(run_name: str, setting: str) -> str:
    return f"{run_name}/trials/{run_name}-{setting}-seed0"


def metrics(root: Path, run_name: str) -> dict[str, Any]:
    found = json.loads((root / "runs" / run_name / "metrics.json").read_text())
    return {key: value for key, value in found.items() if key not in LEFT_OUT}


def reads(root: Path, run_name: str) -> list[tuple[Any, ...]]:
    """Which training rows were read, at which task, in order."""
    log = pq.read_table(root / "runs" / run_name / "access_log.parquet").to_pylist()
    columns = ("task", "rows", "rank", "current_task")
    return [tuple(row[c] for c in columns) for row in log if row["split"] == "train"]


@pytest.fixture(scope="module")
def swept(small_stream: Path) -> Path:
    sweep(sweep_overrides(small_stream, "population"), None, Console(quiet=True))
    return small_stream


def test_the_worst_end_and_the_best_are_forked(swept: Path) -> None:
    rows = {row["setting"]: row for row in table(swept, "population")}
    assert list(rows) == [f"lpi-{number:03d}" for number in range(5)]
    for number, rung in ((3, 1), (4, 2)):
        fork = rows[f"lpi-{number:03d}"]
        (ended,) = (row for row in rows.values() if row["stopped_after"] == rung)
        parent = rows[fork["parent"]]
        assert fork["forked_after"] == rung
        assert fork["figure_by_task"][:rung] == parent["figure_by_task"][:rung]
        assert ended["figure_by_task"][-1] <= parent["figure_by_task"][rung - 1]
        values, inherited = (json.loads(row["values"]) for row in (fork, parent))
        assert values["method.rank"] == inherited["method.rank"]
        assert all(len(values[key]) == rung + 1 for key in KEYS)
    assert [row["status"] for row in rows.values()].count("finished") == 3
    page = PageReader.of(swept / "runs" / "population" / "report.html")
    told = [cell for line in page.tables["comparison"] for cell in line]
    assert any("after 2 tasks" in cell for cell in told), told


def test_a_fork_equals_a_run_from_scratch(swept: Path) -> None:
    """Figures, adapters and what was read, to the bit: its list of weights tells all of it."""
    fork = table(swept, "population")[-1]
    assert (fork["parent"] is not None, fork["status"]) == (True, "finished")
    trial = trial_of("population", fork["setting"])
    changes = [f"{key}={json.dumps(value)}" for key, value in json.loads(fork["values"]).items()]
    config = compose(overrides(swept, "population-scratch", "cluster.workers=0", *changes))
    carry_out(config, Console(quiet=True))
    assert metrics(swept, trial) == metrics(swept, "population-scratch")
    assert figures(swept, trial) == figures(swept, "population-scratch")
    assert adapters(swept, trial) == adapters(swept, "population-scratch")
    assert reads(swept, trial) == reads(swept, "population-scratch")
    parent = adapters(swept, trial_of("population", fork["parent"]))
    same = [one == other for one, other in zip(adapters(swept, trial), parent, strict=True)]
    assert same == [True, True, False], "another weight learns something else from there on"


def test_the_best_setting_again_has_the_same_figures(swept: Path) -> None:
    """`promptide run --config best.yaml`, to the bit."""
    finished = [row for row in table(swept, "population") if row["status"] == "finished"]
    best = max(finished, key=lambda row: row["figure"])
    file = swept / "runs" / "population" / "best.yaml"
    carry_out(compose(["run_name=population-again"], str(file)), Console(quiet=True))
    trial = trial_of("population", best["setting"])
    assert metrics(swept, "population-again") == metrics(swept, trial)
    assert figures(swept, "population-again") == figures(swept, trial)
    assert metrics(swept, trial)["replayed_rows"] == 0


def test_a_killed_sweep_goes_on_to_the_same_end(swept: Path) -> None:
    """SIGKILL of the driver while a fork learns: the same trials and figures as without it."""
    trials = swept / "runs" / "population-killed" / "trials"
    begun = (
        swept / "runs" / trial_of("population-killed", "lpi-003") / "logs"
    )  # what it learns itself
    command = [
        sys.executable,
        "-m",
        "system.app",
        "sweep",
        *sweep_overrides(swept, "population-killed"),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + DEADLINE
    while not begun.exists():
        assert time.monotonic() < end, f"waited {DEADLINE} s for the first fork"
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=DEADLINE)
    assert not (trials.parent / "trials.parquet").exists(), "it was too late to kill it"

    again = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DEADLINE
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert table(swept, "population-killed") == table(swept, "population")
    files = [
        str(swept / "runs" / name / "best.yaml") for name in ("population", "population-killed")
    ]
    first, second = (compose([], file).method for file in files)
    assert first == second

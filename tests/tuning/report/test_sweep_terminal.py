"""Results on the terminal: in 80 columns, with the reason of each failure and the best config."""

import io
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from system.storage.files import Folder
from tests.tuning.report.sweep_rows import FORKED_SWEEP, RECALL, Row, compared, trial_row
from tuning.report.analysis import BEST, Outcome
from tuning.report.certainty import NOT_KNOWN, Certainty, RecallCertainty
from tuning.report.parameters import ParameterCount
from tuning.report.sweep_terminal import print_outcome, print_parameters
from tuning.search.sweep_config import SweepMetric


def printed(
    folder: Path, rows: list[Row], metric: SweepMetric = RECALL, certainty: Certainty = NOT_KNOWN
) -> str:
    file = io.StringIO()
    table = pa.Table.from_pylist(
        [{key: row[key] for key in ("trial", "status", "reason")} for row in rows]
    )
    comparison = replace(compared(rows), certainty=certainty)
    outcome = Outcome(table, comparison, metric, Folder.of(folder))
    print_outcome(outcome, Console(file=file, width=80))
    return file.getvalue()


def test_a_label_is_never_cut_off(tmp_path: Path) -> None:
    """Half a label names no trial."""
    label = "lpi-with-a-rather-long-label-003"
    text = printed(tmp_path, [trial_row(label, 0, [1.0, 2.0, 3.0], "finished")])
    assert f"{label} " in text
    assert f"best: {label}; promptide run --config {tmp_path / BEST}" in text.replace("\n", "")


def test_intervals_fit_beside_the_longest_label(tmp_path: Path) -> None:
    label = "lpi_no_interaction"
    found = RecallCertainty(25_010, 32.0, (30.5, 33.4), -12.0, (-13.1, -10.9))
    recalls = {"t2i_r1": found, "i2t_r1": found}
    certainty = Certainty("s_prompts_shared", {label: recalls, "s_prompts_shared": recalls})
    scores: list[float | None] = [1.0, 2.0, 3.0]
    rows = [trial_row(name, 0, scores, "finished", sharing="shared") for name in certainty.configs]
    text = printed(tmp_path, rows, certainty=certainty)
    minus = "−"  # noqa: RUF001
    lines = [line.split() for line in text.splitlines()]
    assert [label, "32.0", f"{minus}12.0", "32.0", f"{minus}12.0"] in lines
    ends = f"[30.5, 33.4] [{minus}13.1, {minus}10.9]".split()
    assert 2 * ends in lines
    assert " shared " in text
    assert "…" not in text


def test_a_failed_trial_says_why(tmp_path: Path) -> None:
    rows = [
        trial_row("a", 0, [], "failed", reason="disk full"),
        trial_row("b", 0, [], "failed", reason=None),
    ]
    text = printed(tmp_path, rows)
    assert "a-0 failed: disk full" in text
    assert "b-0 failed: its process died; the same command tries it again" in text
    assert "best:" not in text


def test_a_fork_says_where_it_started(tmp_path: Path) -> None:
    text = printed(tmp_path, FORKED_SWEEP)
    assert "lpi-002 from lpi-000 after 2 tasks: weight=[0.1, 0.1, 0.125]" in text


def test_the_front_is_named_where_there_is_a_choice(tmp_path: Path) -> None:
    rows = [
        trial_row("small", 0, [1.0] * 3, "finished", trainable_parameters=1000),
        trial_row("large", 0, [2.0] * 3, "finished", trainable_parameters=2000),
    ]
    assert "trainable parameters: small (1,000), large (2,000)" in printed(tmp_path, rows)
    assert "Pareto" not in printed(tmp_path, rows[:1])


def test_parameter_counts_fit_into_80_columns() -> None:
    """Of the largest method with the longest name too."""
    file = io.StringIO()
    count = ParameterCount("fine_tune_per_task", 149_620_736, 1_795_448_832, 149_620_736.0, 1)
    print_parameters([count], Console(file=file, width=80))
    (row,) = [line for line in file.getvalue().splitlines() if "fine_tune_per_task" in line]
    numbers = ["149,620,736", "1,795,448,832", "7,181,795,328", "598,482,944"]
    assert row.split() == ["fine_tune_per_task", *numbers]

"""The table at the end of a run."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.report.matrix_view import MatrixView
from system.report.subsample import SHOWN_TASKS
from system.report.terminal.tables import print_evaluation, print_final_table
from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow
from tests.report.generated_run import TASKS, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("table") / "demo")


def printed(run: Path, **changes: Any) -> list[list[str]]:
    """Words of each line, at the width of a plain terminal."""
    metrics = json.loads((run / "metrics.json").read_text()) | changes
    file = io.StringIO()
    table = pq.read_table(run / "accuracy_matrix.parquet")
    matrix = MatrixView.from_tables([table]).matrix
    print_final_table(metrics, matrix, Console(file=file, width=80, force_terminal=False))
    assert "…" not in file.getvalue()
    return [line.split() for line in file.getvalue().splitlines()]


def test_each_task_has_its_values_of_the_matrix(run: Path) -> None:
    """Else the table shows another stage or task than it says."""
    values = {
        (row["metric"], row["trained_index"], row["evaluated_index"]): row["value"]
        for row in pq.read_table(run / "accuracy_matrix.parquet").to_pylist()
    }
    lines = printed(run)
    for index, task in enumerate(TASKS):
        expected = [
            values[metric, trained, index]
            for trained in (-1, index, 11)
            for metric in ("t2i_r1", "i2t_r1")
        ] + [values[f"route_{modality}", 11, index] for modality in ("image", "text")]
        assert [task, *(f"{value:.1f}" for value in expected)] in lines


@pytest.mark.parametrize("held_out", [False, True])
def test_of_many_tasks_some_are_printed_and_the_averages_are_of_all(held_out: bool) -> None:
    """A thousand lines push what a reader looks for out of the terminal."""
    tasks = [f"task-{number:03d}" for number in range(200)]
    rows = [
        MatrixRow(trained, j, metric, 60.0 if j % 2 else 20.0, 4)
        for trained in (-1, 199)
        for metric in ("t2i_r1", "i2t_r1")
        for j in range(200)
    ]
    averages = dict.fromkeys(("t2i_r1", "i2t_r1"), 40.0)
    repeated = {"at_several_images": 2, "texts": 4, "highest": averages}
    where = {"repeated_texts": {**repeated, "per_task": dict.fromkeys(tasks, repeated)}}
    metrics = {"tasks": tasks, "average": averages, "evaluation": where}
    matrix = AccuracyMatrix(tasks, rows)
    seen = AccuracyMatrix(tasks, rows, tasks if held_out else None)
    for final in (True, False):
        console = Console(file=io.StringIO(), width=80)
        if final:
            print_final_table(metrics, matrix, console)
        else:
            print_evaluation(seen, console, "many")
        count = 2 if held_out and not final else 1  # held out, also of the frozen model
        text = console.file.getvalue()  # type: ignore[attr-defined]
        lines = [line.strip() for line in text.splitlines()]
        printed = [line for line in lines if line.startswith("task-") and ": " not in line]
        assert len(printed) == SHOWN_TASKS * count
        assert (printed[0][:8], printed[-1][:8]) == ("task-000", "task-199")
        assert any(line.startswith(f"{SHOWN_TASKS} of 200 tasks are shown") for line in lines)
        assert sum("test texts stand at several" in line for line in lines) <= SHOWN_TASKS + 1
        (average,) = (line for line in lines if line.startswith("average"))
        assert "40.0" in average


def test_last_rows_are_average_and_forgetting(run: Path) -> None:
    """Else the values that sum the run up are missing or wrong."""
    metrics = json.loads((run / "metrics.json").read_text())
    lines = printed(run)
    (average,) = (line for line in lines if line[:1] == ["average"])
    (forgetting,) = (line for line in lines if line[:1] == ["forgetting"])
    pair = ("t2i_r1", "i2t_r1")
    assert average[1:3] == [f"{metrics['zero_shot']['average'][m]:.1f}" for m in pair]
    assert average[5:7] == [f"{metrics['average'][m]:.1f}" for m in pair]
    assert average[7:] == [f"{metrics['routing'][f'{m}_average']:.1f}" for m in ("image", "text")]
    assert forgetting[1:] == [f"{metrics['forgetting'][m]:+.1f}" for m in pair]


def test_the_tasks_that_attract_are_named(run: Path) -> None:
    """Else nobody sees that a threshold makes all of them attract, or none."""
    words = " ".join(word for line in printed(run) for word in line)
    pairs = f"{TASKS[0]} and {TASKS[1]}, {TASKS[0]} and {TASKS[2]}"
    assert f"task contrast: 2 of 66 pairs of tasks attract, {pairs}" in words
    without = " ".join(word for line in printed(run, attracting_tasks=None) for word in line)
    assert "task contrast" not in without


def test_undefined_value_is_a_dash_with_its_reason(run: Path) -> None:
    """Else an undefined forgetting reads as none at all."""
    lines = printed(
        run,
        forgetting={"t2i_r1": None, "i2t_r1": 1.5},
        undefined={"forgetting.t2i_r1": "needs two tasks"},
    )
    assert ["forgetting", "–", "(1)", "+1.5"] in lines  # noqa: RUF001
    assert ["1:", "needs", "two", "tasks"] in lines


def test_intervals_and_metrics_of_the_stream_stand_below(run: Path) -> None:
    """In lines that fit: an average of a few hundred queries is not known to the decimal."""
    metrics = json.loads((run / "metrics.json").read_text())
    lines = [" ".join(line) for line in printed(run)]
    low, high = metrics["intervals"]["average"]["t2i_r1"]
    average = metrics["average"]["t2i_r1"]
    (line,) = (line for line in lines if line.startswith(f"t2i R@1: {average:.1f} ["))
    assert f"[{low:.1f}, {high:.1f}] of 12,000 queries, over zero-shot [+" in line
    average, transfer = metrics["stream_average"]["i2t_r1"], metrics["transfer"]["i2t_r1"]
    assert any(
        line.startswith(f"i2t R@1: Avg {average:.1f}, Transfer {transfer:.1f}, BWT ")
        for line in lines
    )
    lines = [" ".join(line) for line in printed(run, intervals={}, transfer={"t2i_r1": None})]
    assert not any("95 %" in line or "Transfer" in line for line in lines)

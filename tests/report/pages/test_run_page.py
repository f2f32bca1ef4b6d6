"""report.html as its reader meets it: values, safety, and runs that are not finished."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from system.report.pages.run_page import write_report
from system.report.run_data import FILES
from system.storage.run_directory import BOX_EXAMPLES
from tests.report.generated_run import (
    LABELS,
    RECALLS,
    TASKS,
    example_rows,
    make_matrices,
    write_example_rows,
    write_matrix,
    write_run,
)
from tests.report.page_reader import PageReader

#: Files of a retrieval run: it has no examples of boxes.
OF_RETRIEVAL = [name for name in FILES if name != BOX_EXAMPLES]


def copy_of(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def change_metrics(directory: Path, **changes: Any) -> None:
    metrics = json.loads((directory / "metrics.json").read_text())
    (directory / "metrics.json").write_text(json.dumps(metrics | changes))


def test_hostile_texts_do_not_run(run: Path, tmp_path: Path) -> None:
    """Else a caption or a task's name in a dataset runs code in the reader's browser."""
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    copy = copy_of(run, tmp_path)
    tasks = (hostile, "animal")
    write_run(copy, tasks)
    rows = example_rows(tasks, np.random.default_rng([1]))
    write_example_rows(copy, [row | {"query": hostile} for row in rows])
    (copy / "config.yaml").write_text(f"run: {hostile}\n")
    change_metrics(copy, run=hostile, undefined={"average.t2i_r1": hostile})

    page = PageReader.of(write_report(copy))

    assert len(page.scripts) == 2
    assert not page.handlers
    assert all(reference.startswith(("#", "data:image/")) for reference in page.references)
    assert page.text.count(hostile) >= 3  # as the text that it is
    ticks = page.data["data-matrix"]["layout"]["xaxis"]["ticktext"]
    assert "<" not in ticks[0]  # the chart library would read markup


def test_undefined_values_are_dashes_with_their_reason(run: Path, tmp_path: Path) -> None:
    """Else an undefined value looks like a measured zero."""
    copy = copy_of(run, tmp_path)
    reason = "forgetting needs two tasks; one was learned"
    metrics = json.loads((copy / "metrics.json").read_text())
    change_metrics(
        copy,
        forgetting=dict.fromkeys(metrics["forgetting"]),
        undefined={f"forgetting.{metric}": reason for metric in RECALLS},
    )
    matrices = make_matrices(np.random.default_rng([3]), len(TASKS))
    matrices["t2i_r1"][4, 2] = np.nan
    write_matrix(copy, matrices, TASKS)

    page = PageReader.of(write_report(copy))

    assert page.row("averages", LABELS["t2i_r1"])[7] == "–1"  # noqa: RUF001  (dash and footnote)
    assert reason in page.titles
    assert page.text.count(reason) == 1
    heat = page.data["data-matrix"]["data"][0]
    assert heat["z"][4][2] is None
    assert heat["zmin"] > 0
    curve = next(
        trace for trace in page.data["data-average"]["data"] if trace["name"] == "Text → image R@1"
    )
    assert curve["y"][3] is None  # the mean over a task without a value
    assert None not in curve["y"][4:]


@pytest.mark.parametrize("missing", OF_RETRIEVAL)
def test_page_without_one_file_says_so(run: Path, tmp_path: Path, missing: str) -> None:
    """Else a run that is still going, or lost a file, has no report at all."""
    copy = copy_of(run, tmp_path)
    (copy / missing).unlink()
    page = PageReader.of(write_report(copy))
    assert f"not there: {missing}" in page.text
    assert "Not available" in page.text or missing == "metrics.json"
    assert ("Still running" in page.text) == (missing == "metrics.json")


@pytest.mark.parametrize("kept", OF_RETRIEVAL)
def test_page_of_one_file_alone(run: Path, tmp_path: Path, kept: str) -> None:
    """Else the first minutes of a run cannot be looked at."""
    shutil.copy(run / kept, tmp_path / kept)
    assert "promptide" in PageReader.of(write_report(tmp_path)).text


def test_page_of_a_run_in_its_middle(run: Path, tmp_path: Path) -> None:
    """Else the curves of a stream that has learned three of its tasks are wrong or fail."""
    copy = copy_of(run, tmp_path)
    (copy / "metrics.json").unlink()
    table = pq.read_table(copy / "accuracy_matrix.parquet")
    mask = [index < 3 for index in table["trained_index"].to_pylist()]
    pq.write_table(table.filter(mask), copy / "accuracy_matrix.parquet")
    page = PageReader.of(write_report(copy))
    assert page.data["data-average"]["data"][0]["x"] == [1, 2, 3]
    assert page.data["data-curves"]["data"][0]["x"] == [0, 1, 2, 3]
    assert "data-routing" not in page.data


def test_examples_frame_the_target_and_tell_its_rank(run: Path, page: PageReader) -> None:
    """Else the reader cannot tell whether the right image was found."""
    rows = pq.read_table(run / "examples.parquet").to_pylist()
    assert page.targets == sum(row["is_target"] for row in rows)
    assert sum(reference.startswith("data:image/") for reference in page.references) == len(rows)
    for row in rows[:30]:
        assert f"rank {row['target_rank']}" in page.text
        assert row["query"] in page.text


def test_date_comes_from_the_log_when_metrics_have_none(page: PageReader) -> None:
    """Else the page shows no date, or the date of its making."""
    assert "2025-03-01 09:41 UTC" in page.text


def test_unrouted_method_has_no_routing_chart(run: Path, tmp_path: Path) -> None:
    """Else a method without a router seems to have lost its metrics."""
    copy = copy_of(run, tmp_path)
    metrics = json.loads((copy / "metrics.json").read_text())
    change_metrics(copy, routing=None, evaluation=metrics["evaluation"] | {"router": "none"})
    page = PageReader.of(write_report(copy))
    assert "Not available: this method does not route." in page.text


def test_run_by_uri(run: Path, tmp_path: Path) -> None:
    """Else a run on a remote storage cannot be reported."""
    copy = copy_of(run, tmp_path)
    assert write_report(f"file://{copy}") == copy / "report.html"
    assert (copy / "report.html").stat().st_size > 1_000_000

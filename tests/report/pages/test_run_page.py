"""report.html as its reader meets it: figures, safety, and runs that are not finished."""

import base64
import hashlib
import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from plotly.offline import get_plotlyjs

from system.report.pages.run_page import write_report
from system.report.run_data import FILES
from system.storage.run_directory import BOX_EXAMPLES
from tests.report.page_reader import PageReader
from tests.report.run_fixture import (
    RECALLS,
    START,
    TASKS,
    example_rows,
    make_matrices,
    write_access_log,
    write_example_rows,
    write_matrix,
    write_run,
)

#: Files of a retrieval run: it has no examples of boxes.
OF_RETRIEVAL = [name for name in FILES if name != BOX_EXAMPLES]
LABELS = {"t2i_r1": "Text → image R@1", "i2t_r1": "Image → text R@1", "t2i_r5": "Text → image R@5"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture(scope="module")
def page(run: Path) -> PageReader:
    return PageReader.of(write_report(run))


def copy_of(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def change_metrics(directory: Path, **changes: Any) -> None:
    metrics = json.loads((directory / "metrics.json").read_text())
    (directory / "metrics.json").write_text(json.dumps(metrics | changes))


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")  # noqa: RUF001


def test_averages_are_those_of_the_metrics_file(run: Path, page: PageReader) -> None:
    """Else the user reads other figures than the run measured."""
    metrics = json.loads((run / "metrics.json").read_text())
    for metric, label in LABELS.items():
        zero_shot, average = metrics["zero_shot"]["average"][metric], metrics["average"][metric]
        assert page.row("averages", label) == [
            f"{zero_shot:.1f}",
            f"{average:.1f}",
            signed(average - zero_shot),
            f"{metrics['oracle']['average'][metric]:.1f}",
            signed(metrics["forgetting"][metric]),
            signed(metrics["forward_transfer"][metric]),
            f"{metrics['published_average'][metric]:.1f}",
            signed(metrics["published_forgetting"][metric]),
        ]
    assert f"{metrics['trainable_parameters']:,}" in page.text


def test_heat_map_holds_the_matrix_file(run: Path, page: PageReader) -> None:
    """Else the heat map shows another matrix; first row zero-shot, one trace a metric."""
    figure = page.data["data-matrix"]
    rows = pq.read_table(run / "accuracy_matrix.parquet").to_pylist()
    expected = {
        (row["metric"], row["trained_index"], row["evaluated_index"]): row["value"] for row in rows
    }
    assert len(figure["data"]) == len(RECALLS)
    by_name = {trace["name"]: trace["z"] for trace in figure["data"]}
    for metric, label in LABELS.items():
        for trained in range(-1, len(TASKS)):
            for task in range(len(TASKS)):
                shown = by_name[label][trained + 1][task]
                assert shown == expected[metric, trained, task]
    assert figure["layout"]["yaxis"]["ticktext"][:2] == ["zero-shot", "1 appliance"]
    frames = figure["layout"]["shapes"]
    assert [(f["x0"] + 0.5, f["y0"] + 0.5) for f in frames] == [(i, i + 1) for i in range(12)]


def test_only_one_trace_of_a_choice_is_shown_at_first(page: PageReader) -> None:
    """Else heat maps of several metrics lie on one another."""
    shown = [trace["visible"] for trace in page.data["data-matrix"]["data"]]
    assert shown == [True] + [False] * 5
    bars = [trace["visible"] for trace in page.data["data-methods"]["data"]]
    assert bars == [True] * 3 + [False] * 3


def test_nothing_comes_from_the_network(page: PageReader) -> None:
    """Else the page breaks offline, or tells others that it was opened."""
    assert all(reference.startswith(("#", "data:image/")) for reference in page.references)
    assert "link" not in page.tags
    assert "iframe" not in page.tags
    assert page.policy.startswith("default-src 'none'; img-src data: blob:;")


def test_the_policy_admits_exactly_the_two_scripts(page: PageReader) -> None:
    """Else the charts stay empty, or a foreign script may run."""
    assert page.scripts[0] == get_plotlyjs()
    assert len(page.scripts) == 2
    admitted = page.policy.split("script-src ")[1].split()
    assert admitted == [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in page.scripts
    ]
    assert not page.handlers


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
    assert page.text.count(hostile) >= 3  # shown as the text it is
    ticks = page.data["data-matrix"]["layout"]["xaxis"]["ticktext"]
    assert "<" not in ticks[0]  # the chart library would read markup


def test_undefined_figures_are_dashes_with_their_reason(run: Path, tmp_path: Path) -> None:
    """Else an undefined figure looks like a measured zero."""
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

    assert page.row("averages", LABELS["t2i_r1"])[4] == "–1"  # noqa: RUF001  (dash and footnote)
    assert reason in page.titles
    assert page.text.count(reason) == 1
    heat = page.data["data-matrix"]["data"][0]
    assert heat["z"][4][2] is None
    assert heat["zmin"] > 0
    curve = next(
        trace for trace in page.data["data-average"]["data"] if trace["name"] == "Text → image R@1"
    )
    assert curve["y"][3] is None  # the mean over a task without a figure
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


def test_access_log_is_counted_anew(run: Path, page: PageReader) -> None:
    """Else the proof of no replay is only a repeated claim."""
    assert page.row("access", "sports") == ["1", "800", "1", "100", "13", "2,600", "0"]
    assert page.row("access", "All") == ["12", "9,600", "12", "1,200", "156", "31,200", "0"]


def test_replay_in_the_log_contradicts_the_metrics(run: Path, tmp_path: Path) -> None:
    """Else a run that read old data would pass as replay-free."""
    copy = copy_of(run, tmp_path)
    replay = {
        "task": TASKS[0],
        "split": "train",
        "rows": 37,
        "opened_at": START + timedelta(hours=1),
        "generation": 0,
        "rank": 0,
        "consumer": "trainer",
        "current_task": TASKS[-1],
    }
    write_access_log(copy, TASKS, [replay])
    page = PageReader.of(write_report(copy))
    assert "the access log counts 37" in page.text
    assert page.row("access", TASKS[0])[-1] == "37"


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
    """Else a method without a router seems to have lost its figures."""
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

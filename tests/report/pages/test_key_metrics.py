"""The table of averages against metrics.json."""

import json
import shutil
from pathlib import Path

from system.report.pages.run_page import write_report
from system.results.stream_metrics import COMBINED, STREAM_METRICS
from tests.report.generated_run import LABELS
from tests.report.page_reader import PageReader


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")  # noqa: RUF001


def test_averages_are_those_of_the_metrics_file(run: Path, page: PageReader) -> None:
    """Else the user reads other values than the run measured."""
    metrics = json.loads((run / "metrics.json").read_text())
    for metric, label in LABELS.items():
        zero_shot, average = metrics["zero_shot"]["average"][metric], metrics["average"][metric]
        low, high = metrics["intervals"]["average"][metric]
        gain_low, gain_high = metrics["intervals"]["gain"][metric]
        assert page.row("averages", label) == [
            f"{metrics['queries'][metric]:,}",
            f"{zero_shot:.1f}",
            f"{average:.1f}[{low:.1f}, {high:.1f}]",
            f"{signed(average - zero_shot)}[{signed(gain_low)}, {signed(gain_high)}]",
            f"{metrics['oracle']['average'][metric]:.1f}",
            f"{metrics['stream_average'][metric]:.1f}",
            f"{metrics['transfer'][metric]:.1f}",
            signed(metrics["forgetting"][metric]),
            signed(metrics["backward_transfer"][metric]),
            signed(metrics["forward_transfer"][metric]),
            f"{metrics['published_average'][metric]:.1f}",
            signed(metrics["published_forgetting"][metric]),
        ]
    low, high = metrics["intervals"]["average"]["rsum"]
    assert f"Rsum {metrics['rsum']['average']:.1f} [{low:.1f}, {high:.1f}], zero-shot" in page.text
    headline = metrics["intervals"]["average"]["t2i_r1"]
    assert f"12,000 queries, average [{headline[0]:.1f}, {headline[1]:.1f}]" in page.text
    assert f"{metrics['trainable_parameters']:,}" in page.text


def test_every_metric_of_the_table_is_defined_with_its_source(page: PageReader) -> None:
    """Two papers' forgetting have opposite signs: the heading alone tells nobody which it is."""
    for metric in (*STREAM_METRICS, *COMBINED):
        assert f"{metric.formula}. {metric.reference}." in page.text


def test_a_run_of_an_earlier_version_says_once_what_it_lacks(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    metrics = json.loads((copy / "metrics.json").read_text())
    later = ("stream_average", "transfer", "backward_transfer", "rsum", "r_mean")
    for key in (*later, "queries", "intervals"):
        del metrics[key]
    (copy / "metrics.json").write_text(json.dumps(metrics))
    page = PageReader.of(write_report(copy))
    row = page.row("averages", LABELS["t2i_r1"])
    dash = "–"  # noqa: RUF001
    assert row[0] == dash
    assert row[5:7] == [f"{dash}1", f"{dash}1"]
    assert page.text.count("an earlier version wrote the run's metrics") == 1
    assert "[" not in row[2]

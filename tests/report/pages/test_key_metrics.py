"""The table of averages against metrics.json."""

import json
from pathlib import Path

from tests.report.generated_run import LABELS
from tests.report.page_reader import PageReader


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")  # noqa: RUF001


def test_averages_are_those_of_the_metrics_file(run: Path, page: PageReader) -> None:
    """Else the user reads other values than the run measured."""
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

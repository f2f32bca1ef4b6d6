"""The access log, counted again for the page."""

import shutil
from datetime import timedelta
from pathlib import Path

from system.report.pages.run_page import write_report
from tests.report.generated_run import (
    START,
    TASKS,
    write_access_log,
)
from tests.report.page_reader import PageReader


def test_access_log_is_counted_anew(run: Path, page: PageReader) -> None:
    """Else the proof of no replay is only a repeated claim."""
    assert page.row("access", "sports") == ["1", "800", "1", "100", "13", "2,600", "0"]
    assert page.row("access", "All") == ["12", "9,600", "12", "1,200", "156", "31,200", "0"]


def test_replay_in_the_log_contradicts_the_metrics(run: Path, tmp_path: Path) -> None:
    """Else a run that read old data would pass as replay-free."""
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
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

"""`promptide export res` and `promptide import res`: the released code's results and ours."""

import json
from pathlib import Path

import pytest

from system import app
from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow
from system.results.recall import METRICS
from system.storage.files import Folder
from system.storage.run_directory import ACCURACY_MATRIX, MATRIX_SCHEMA, matrix_tables
from system.storage.run_directory import METRICS as METRICS_FILE

TASKS = ("appliance", "sports")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's directory with what an export reads: R@k of i2t on task 0 falls from 60 to 50."""
    rows = [
        MatrixRow(i, j, metric, 60.0 - 10 * (i > j) + METRICS.index(metric), 8)
        for metric in METRICS
        for i in range(-1, 2)
        for j in range(2)
    ]
    folder = Folder.of(tmp_path / "run")
    columns = AccuracyMatrix(TASKS, rows).columns()
    folder.write_tables(ACCURACY_MATRIX, MATRIX_SCHEMA, matrix_tables(columns))
    folder.write_json(METRICS_FILE, {"evaluation": {"gallery": "seen"}})
    return tmp_path / "run"


def test_a_run_goes_out_and_comes_back(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the authors' scripts read, and what ours makes of theirs."""
    file = tmp_path / "res" / "0101.json"
    assert app.main(["export", "res", str(run), str(file), "--numbers"]) == 0
    assert "compare with none" not in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert list(content) == ["11", "6"]
    first = METRICS.index("i2t_r1")
    assert content["6"]["mscoco"]["i2t"]["11"] == [
        50.0 + first + 0,
        50.0 + first + 1,
        50.0 + first + 2,
    ]

    assert app.main(["import", "res", str(file), str(tmp_path / "theirs")]) == 0
    shown = capsys.readouterr().out
    assert "i2t_r1" in shown
    assert "not evaluated" in shown  # of forward transfer: their file has the tasks seen alone
    metrics = json.loads((tmp_path / "theirs" / "metrics.json").read_text())
    assert metrics["tasks"] == list(TASKS)
    assert metrics["published_forgetting"]["i2t_r1"] == -10.0
    assert metrics["average"]["i2t_r1"] == 55.0 + first
    assert metrics["forward_transfer"]["i2t_r1"] is None
    page = (tmp_path / "theirs" / "report.html").read_text()
    assert "0101" in page
    assert "appliance" in page


def test_an_export_of_another_gallery_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recalls over all tasks' images are lower than theirs in every row but the last."""
    Folder.of(run).write_json(METRICS_FILE, {"evaluation": {"gallery": "all"}})
    assert app.main(["export", "res", str(run), str(tmp_path / "res.json")]) == 0
    assert "evaluation.gallery=seen" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "res.json").read_text())) == list(TASKS)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["import"], "import res FILE"),
        (["import", "nothing", "x"], "import res FILE"),
        (["import", "res"], "import res FILE"),
        (["import", "res", "missing.json"], "missing.json"),
        (["export", "res", "run"], "export res RUN FILE"),
        (["export", "csv", "run", "file"], "export res RUN FILE"),
        (["export", "res", "nowhere", "file.json"], "nowhere"),
    ],
)
def test_words_that_do_not_fit_are_told_in_one_line(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(words) == 2
    shown = capsys.readouterr().err
    assert named in shown
    assert len(shown.strip().splitlines()) == 1

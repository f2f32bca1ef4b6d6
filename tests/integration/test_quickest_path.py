"""The quickest path for a user's own data: thirty pictures and a table, one command, a report."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system import app

BIRDS = ("robin", "heron", "owl")


@pytest.mark.ray
def test_thirty_pictures_and_a_table_become_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's first lines for own data; whoever meets an error here does not come back."""
    folder = tmp_path / "birds"
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "captions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for number in range(30):
            name = f"{number:03d}.jpg"
            pixels = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
            table.writerow([name, f"a {BIRDS[number % 3]}, photo {number}"])
    monkeypatch.chdir(tmp_path)
    words = ["experiment=demo", "benchmark=folder", "benchmark.options.root=birds"]
    assert app.main(["run", *words]) == 0
    printed = capsys.readouterr().out
    assert "smaller batches than stage.batch_size=64, as tasks are small" in printed
    run = tmp_path / "runs" / "demo"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["tasks"] == ["all"]
    assert 0 < metrics["smaller_batches"]["all"] < 30
    assert "<html" in (run / "report.html").read_text()
    assert str(run / "report.html") in printed

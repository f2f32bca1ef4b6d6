"""The README's example of a method works as it is written there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.small_stream import prepare_small_stream, stream_overrides

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROJECT = Path(__file__).resolve().parents[2]
FILES = ("system/methods/feature_shift.py", "configs/method/feature_shift.yaml")


def test_a_method_is_one_file_and_one_yaml(tmp_path: Path) -> None:
    """A user who follows the README step by step would be stopped by whatever stops this."""
    readme = (PROJECT / "README.md").read_text()
    project = tmp_path / "project"
    for folder in ("system", "actors", "tuning", "configs"):
        shutil.copytree(PROJECT / folder, project / folder)
    for name in FILES:
        found = re.search(rf"`{re.escape(name)}`:\n\n```\w+\n(.*?)```", readme, re.DOTALL)
        assert found, f"the README no longer shows {name}"
        (project / name).write_text(found[1])
    prepare_small_stream(tmp_path)
    overrides = [*stream_overrides(tmp_path, "own"), "cluster.workers=0", "method=feature_shift"]
    done = subprocess.run(
        [sys.executable, "-m", "system.app", "run", *overrides],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "runs" / "own" / "metrics.json").read_text())
    assert metrics["method"] == "feature_shift"
    assert metrics["trainable_parameters_per_task"] == 20
    assert metrics["replayed_rows"] == 0

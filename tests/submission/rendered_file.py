"""A file of `promptide submit run ... --render`, with a run name that tries to break out of it."""

import pytest

from system import app

NASTY = 'run_name="it\'s $HOME `id`: # {{x}} %s"'

SHARED = ["storage_path=/mnt/runs", "data_path=/mnt/data", NASTY]


def rendered(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert app.main(["submit", "run", *SHARED, *arguments, "--render"]) == 0
    return capsys.readouterr().out

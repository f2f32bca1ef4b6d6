"""What cannot be learned ends the run at once and says where; what may pass is waited for."""

import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.run import carry_out
from system.engine.epochs import DivergedError
from system.errors import PromptideError
from tests.integration.small_stream import adapters, figures, small_experiment

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_diverged_loss_ends_the_run_and_keeps_what_was_learned(small_stream: Path) -> None:
    name = "diverged"
    experiment = small_experiment(
        small_stream, name, "cluster.workers=1", "stage.optimiser.learning_rate=1e30"
    )
    where = r"of task 'animal' is \S+ at epoch \d, .*Kept: the 0 tasks before it.*learning_rate"
    with pytest.raises(DivergedError, match=where):
        carry_out(experiment, Console(quiet=True))
    logs = small_stream / "runs" / name / "logs"
    assert len(list(logs.iterdir())) == 1, "a loss that diverges again was tried again"
    assert "DivergedError" in next(logs.iterdir()).read_text()


def test_storage_that_is_away_for_a_while_costs_nothing_but_time(small_stream: Path) -> None:
    """A mount that hangs, or a disk that somebody has to make room on, ends no run of days."""
    name = "storage-away"
    run = small_stream / "runs" / name
    journal, away = run / "stream", run / "stream-away"

    def take_away() -> None:
        while not list((run / "adapters").glob("task-*.safetensors")):
            time.sleep(0.02)
        journal.rename(away)
        journal.write_text("in the way")
        until = time.monotonic() + 120
        while not any("StorageError" in log.read_text() for log in (run / "logs").glob("*.log")):
            assert time.monotonic() < until
            time.sleep(0.1)
        journal.unlink()
        away.rename(journal)

    thief = threading.Thread(target=take_away)
    thief.start()
    experiment = small_experiment(small_stream, name, "cluster.workers=1")
    try:
        carry_out(experiment, Console(quiet=True))
    except PromptideError as error:
        pytest.fail(f"gave up: {error}")
    finally:
        thief.join()
    assert adapters(small_stream, name) == adapters(small_stream, "reference")
    assert figures(small_stream, name) == figures(small_stream, "reference")
    log = pq.read_table(run / "access_log.parquet")
    assert max(log.column("generation").to_pylist()) > 1

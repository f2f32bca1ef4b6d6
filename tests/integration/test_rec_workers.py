"""The stream of referring expressions on Ray's workers, one of them killed on the way."""

import json
import os
import signal
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from system.cli.run import carry_out
from system.config.compose import compose
from tests.integration.in_process import learn_experiment
from tests.integration.killing import wait_for, worker_pids
from tests.integration.small_rec_stream import prepare_small_rec, rec_overrides
from tests.integration.small_stream import adapters, figures

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_two_workers_one_killed_end_as_one_process_does(tmp_path: Path, ray_local: None) -> None:
    """To the bit: prompts, router, figures; and no past task's training rows were read again."""
    prepare_small_rec(tmp_path)
    lpi = ("method.interaction.depth=null", "method.prompt_length=4")
    learn_experiment(compose(rec_overrides(tmp_path, "reference", *lpi, "cluster.workers=0")))
    first = tmp_path / "runs" / "killed" / "adapters" / "task-0000.safetensors"
    killed: list[int] = []

    def kill() -> None:
        wait_for(first.exists, "the first task")
        wait_for(lambda: bool(worker_pids(os.getpid())), "a worker")
        killed.append(worker_pids(os.getpid())[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    experiment = compose(rec_overrides(tmp_path, "killed", *lpi, "cluster.workers=2"))
    carry_out(experiment, Console(quiet=True))
    killer.join()
    assert killed
    assert adapters(tmp_path, "killed") == adapters(tmp_path, "reference")
    assert figures(tmp_path, "killed") == figures(tmp_path, "reference")
    metrics = json.loads((tmp_path / "runs" / "killed" / "metrics.json").read_text())
    assert metrics["replayed_rows"] == 0
    log = pq.read_table(tmp_path / "runs" / "killed" / "access_log.parquet")
    assert max(log.column("generation").to_pylist()) > 1, "the worker group was not restarted"
    assert (tmp_path / "runs" / "killed" / "report.html").exists()

"""A second command on the same place waits, or is refused by the name of the first."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.stream_run import StreamRun
from tests.cases.conftest import Ended
from tests.cases.test_runs import SWEEP
from tests.storage.test_writer_lock import HOLDER
from tuning.run import sweep as sweeping


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Another process writes a folder meanwhile; gives its number."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
    finally:
        holder.terminate()
        holder.communicate()


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_second_run_or_sweep_is_refused_before_it_checks_anything(
    case: Callable[[str], Path],
    promptide: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
) -> None:
    """Loading the models takes minutes, and then the answer would be the same."""
    root, runs = case("same-caption-many-images") / "data", tmp_path / "runs"
    words = ["benchmark=folder", f"benchmark.options.root={root}", f"data_path={tmp_path / 'data'}"]
    words += [f"storage_path={runs}", "run_name=taken"]
    promptide("prepare", *words).passed()
    for owner, check in ((StreamRun, "check"), (sweeping, "check_sweep")):
        monkeypatch.setattr(owner, check, lambda *_: pytest.fail("it was checked"))
    with held(runs / "taken") as process:
        refused = promptide(command, *words, *(SWEEP if command == "sweep" else ())).refused()
    assert f"{runs}/taken is being written by process {process} on " in refused
    assert "choose another run_name" in refused


def test_a_second_prepare_waits_for_the_first_by_name(
    case: Callable[[str], Path], tmp_path: Path
) -> None:
    root, data = case("same-caption-many-images") / "data", tmp_path / "data"
    words = ["benchmark=folder", "benchmark.name=case", f"benchmark.options.root={root}"]
    with held(data / "case") as process:
        second = subprocess.Popen(
            [sys.executable, "-u", "-m", "system.app", "prepare", *words, f"data_path={data}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert second.stdout is not None
        line = second.stdout.readline()
        assert line.startswith(f"waiting for process {process} on ")
        assert str(data / "case") in line
        assert second.poll() is None
    assert second.wait() == 0
    second.stdout.close()
    assert (data / "case" / "manifest.json").exists()

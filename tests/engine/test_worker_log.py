"""A worker's log says how it ended, and its clock where the time went."""

from pathlib import Path

import pytest

from system.engine.worker_log import PhaseClock, RankLog
from system.storage.files import Folder


def test_the_traceback_of_what_ended_a_worker_is_in_its_file(tmp_path: Path) -> None:
    """Ray shows one rank's error at most; the others' would be lost."""
    log = RankLog(Folder.of(tmp_path), rank=1, generation=4)
    log.task = "food"
    log.add("began")
    with pytest.raises(ZeroDivisionError), log.ending():
        raise ZeroDivisionError("of what")
    text = (tmp_path / "rank-1-start-4.log").read_text()
    assert "began" in text
    assert "rank 1 failed in task food" in text
    assert "ZeroDivisionError: of what" in text


def test_a_good_end_is_logged_too(tmp_path: Path) -> None:
    """A file without an end is of a worker that was killed."""
    with RankLog(Folder.of(tmp_path), rank=0, generation=0).ending():
        pass
    assert "the worker has ended" in (tmp_path / "rank-0-start-0.log").read_text()


def test_seconds_add_up_by_phase_and_start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a phase that ends badly: its time was spent."""
    times = iter([0.0, 1.0, 5.0, 7.0, 10.0, 10.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = PhaseClock()
    with clock.phase("train"):
        pass
    with pytest.raises(KeyError), clock.phase("train"):
        raise KeyError
    with clock.phase("evaluate"):
        pass
    assert clock.take() == {"train": 3.0, "evaluate": 0.5}
    assert clock.take() == {}

"""A worker's log says how it ended, and its clock where the time went."""

import re
import time
from pathlib import Path

import pytest

from system.engine import worker_log
from system.engine.whereabouts import new_place
from system.engine.worker_log import PhaseClock, RankLog
from system.errors import StorageError
from system.storage.files import Folder


def test_the_traceback_of_what_ended_a_worker_is_in_its_file(tmp_path: Path) -> None:
    """Ray shows one rank's error at most; the others' would be lost."""
    log = RankLog(Folder.of(tmp_path), rank=1, generation=4)
    log.place.task = "food"
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


def test_a_line_is_in_the_file_at_once_with_time_and_place(tmp_path: Path) -> None:
    """A worker that hangs in its first task, or is stopped, leaves what it did until then."""
    with new_place() as place:
        log = RankLog(Folder.of(tmp_path), rank=0, generation=1)
        place.task = "food"
        with place.doing("train"):
            place.at(1, 3)
            log.add("two\nlines")
            lines = (tmp_path / "rank-0-start-1.log").read_text().splitlines()
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 \[", line), line
    assert [line.partition(" ")[2] for line in lines] == [
        "[train, task 'food'] begins",
        "[train, task 'food', epoch 1, step 3] two",
        "[train, task 'food', epoch 1, step 3] lines",
    ]


def test_a_line_that_storage_refused_comes_with_the_next(tmp_path: Path) -> None:
    """A worker outlives a moment without storage, and its log has no gap and no line twice."""
    log = RankLog(Folder.of(tmp_path / "logs"), rank=0, generation=0)
    (tmp_path / "logs").write_text("in the way")
    log.add("first")
    with pytest.raises(StorageError, match="logs"):
        log.publish()
    (tmp_path / "logs").unlink()
    log.add("second")
    text = (tmp_path / "logs" / "rank-0-start-0.log").read_text()
    assert [line.rpartition(" ")[2] for line in text.splitlines()] == ["first", "second"]


def test_an_object_store_gets_parts_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no append: else each line of a long run would write all lines before it again."""
    monkeypatch.setattr(worker_log, "is_local", lambda filesystem: False)
    monkeypatch.setattr(worker_log, "PART_BYTES", 500)
    written: list[int] = []
    write = Folder.write

    def counting(self: Folder, name: str, data: bytes, *, new: bool = False) -> None:
        written.append(len(data))
        write(self, name, data, new=new)

    monkeypatch.setattr(Folder, "write", counting)
    log = RankLog(Folder.of(tmp_path), rank=2, generation=0)
    for number in range(50):
        log.add(f"line {number}")
        assert not written[number:], "`add` waited for storage"
        log.publish()
    assert max(written) < 700
    files = sorted(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    assert len(files) > 3
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert [line.rpartition("] ")[2] for line in lines] == [f"line {i}" for i in range(50)]


def test_a_long_phase_says_now_and_then_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that does not move says nothing more: the last line is from when it still did."""
    monkeypatch.setattr(worker_log, "SECONDS_BETWEEN_PLACES", 0.01)
    with new_place() as place:
        log = RankLog(Folder.of(tmp_path), rank=0, generation=0)
        file = tmp_path / log.name

        def said() -> int:
            return file.read_text().count("moved ") if file.exists() else 0

        with log.ending(), place.doing("evaluate"):
            for count in range(1, 4):
                place.move()
                until = time.monotonic() + 30
                while said() < count:
                    assert time.monotonic() < until, "it said nothing of a move"
                    time.sleep(0.005)
            assert said() == 3
    assert "[evaluate] moved 1 times in" in file.read_text()

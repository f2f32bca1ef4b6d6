"""Two drivers never write one run directory at a time, and a dead one never blocks it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from pyarrow import fs

from system.errors import StorageError
from system.storage.files import Folder
from system.storage.writer_lock import LOCK_NAME, Pace, Writer, sole_writer

FAST = Pace(beat=0.05, gone=0.4, settle=0.02)
HOLDER = """
import sys, time
from system.storage.files import Folder
from system.storage.writer_lock import sole_writer
with sole_writer(Folder.of(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["local", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder.of(tmp_path / "run")
    store = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem(skip_instance_cache=True)))
    name = f"bucket/{tmp_path.name}"
    return Folder(store, name, f"memory://{name}")


def elsewhere() -> Writer:
    """A writer on a machine whose processes cannot be looked up."""
    return replace(Writer.here(), host="far-away", place="another boot", token="far")


def put(folder: Folder, writer: Writer) -> None:
    folder.write(LOCK_NAME, json.dumps(asdict(writer)).encode())


def holder(folder: Folder) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder.uri],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_told_who_the_first_is(folder: Folder) -> None:
    with (
        sole_writer(folder, pace=FAST),
        pytest.raises(StorageError, match=rf"(run|bucket).*process {os.getpid()} on .*run_name"),
        sole_writer(folder, pace=FAST),
    ):
        pass
    assert not folder.exists(LOCK_NAME)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_no_way_out_leaves_the_lock_behind(folder: Folder, error: type[BaseException]) -> None:
    with pytest.raises(error), sole_writer(folder, pace=FAST):
        raise error
    assert not folder.exists(LOCK_NAME)
    with sole_writer(folder, pace=FAST):
        assert folder.exists(LOCK_NAME)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(StorageError, match=f"{tmp_path}/file/run"),
        sole_writer(Folder.of(tmp_path / "file" / "run")),
    ):
        pass


def test_a_patient_writer_is_told_of_the_other_and_follows_it(tmp_path: Path) -> None:
    """Also if the other is killed: whoever needs what it makes then makes it."""
    folder = Folder.of(tmp_path / "model")
    process = holder(folder)
    told: list[str] = []

    def waiting(who: str) -> None:
        assert folder.exists(LOCK_NAME)
        told.append(who)
        process.kill()

    with sole_writer(folder, pace=FAST, waiting=waiting):
        assert [f"process {process.pid} on" in who for who in told] == [True]
        assert str(process.pid).encode() not in folder.read(LOCK_NAME)
    process.wait()


def test_a_killed_writer_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    """Else the command that is to go on after a crash has to wait, or to be told to."""
    folder = Folder.of(tmp_path / "run")
    process = holder(folder)
    try:
        with pytest.raises(StorageError, match=f"process {process.pid}"), sole_writer(folder):
            pass
    finally:
        process.kill()  # not waited for: what is left is a zombie
    started = time.monotonic()
    while True:
        try:
            with sole_writer(folder):
                break
        except StorageError:  # the kernel has not ended it yet
            assert time.monotonic() - started < 5
    process.wait()
    assert not folder.exists(LOCK_NAME)


def test_sigterm_removes_the_lock(tmp_path: Path) -> None:
    """It is how schedulers of clusters end a job."""
    folder = Folder.of(tmp_path / "run")
    process = holder(folder)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    assert not folder.exists(LOCK_NAME)


def test_a_process_number_used_again_is_not_taken_for_the_writer(folder: Folder) -> None:
    put(folder, replace(Writer.here(), started="1", token="of a process long ago"))
    with sole_writer(folder, pace=FAST):
        assert b"long ago" not in folder.read(LOCK_NAME)


def test_a_writer_elsewhere_is_gone_once_it_beats_no_more(folder: Folder) -> None:
    put(folder, elsewhere())
    started = time.monotonic()
    with sole_writer(folder, pace=FAST):
        assert time.monotonic() - started >= FAST.gone


def test_a_writer_elsewhere_that_beats_is_left_alone(folder: Folder) -> None:
    put(folder, elsewhere())
    beat = threading.Timer(0.1, put, (folder, replace(elsewhere(), beats=1)))
    beat.start()
    with pytest.raises(StorageError, match="far-away"), sole_writer(folder, pace=FAST):
        pass
    beat.join()
    assert b"far-away" in folder.read(LOCK_NAME)


def test_a_torn_lock_is_waited_for_and_replaced(folder: Folder) -> None:
    folder.write(LOCK_NAME, b'{"host": "a')
    with sole_writer(folder, pace=FAST):
        pass
    assert not folder.exists(LOCK_NAME)


def test_a_writer_that_slept_and_was_replaced_ends(folder: Folder) -> None:
    """It must not go on beside the other, nor take the other's lock away."""
    told = threading.Event()

    def sleep_through_it() -> None:
        with sole_writer(folder, on_lost=told.set, pace=FAST):
            until = time.monotonic() + 5
            while not told.wait(0.1):  # a beat may come between this write and its look
                put(folder, elsewhere())
                assert time.monotonic() < until

    with pytest.raises(StorageError, match="far-away"):
        sleep_through_it()
    assert b"far-away" in folder.read(LOCK_NAME)


def test_the_replaced_writer_is_interrupted_and_says_why(folder: Folder) -> None:
    def work() -> None:
        with sole_writer(folder, pace=FAST):
            for _ in range(5):  # a beat may come between this write and its look
                put(folder, elsewhere())
                time.sleep(6)

    started = time.monotonic()
    with pytest.raises(StorageError, match="far-away"):
        work()
    assert time.monotonic() - started < 10


def test_a_replaced_writer_in_the_background_of_a_script_is_interrupted_too(
    folder: Folder,
) -> None:
    """Shells start those with Ctrl-C ignored, which it stays while nobody has taken over."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with sole_writer(folder, pace=FAST):
            signal.raise_signal(signal.SIGINT)
        test_the_replaced_writer_is_interrupted_and_says_why(folder)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_only_one_of_many_gets_a_lock_that_a_dead_writer_left(tmp_path: Path) -> None:
    folder = Folder.of(tmp_path / "run")
    put(folder, replace(Writer.here(), started="1", token="dead"))
    outcomes: list[str] = []
    together, tried = threading.Barrier(8), threading.Barrier(8)

    def attempt() -> None:
        together.wait()
        try:
            with sole_writer(folder, on_lost=lambda: None):
                tried.wait()
                outcomes.append("held")
        except StorageError:
            outcomes.append("refused")
            tried.wait()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + ["refused"] * 7
    assert not folder.exists(LOCK_NAME)

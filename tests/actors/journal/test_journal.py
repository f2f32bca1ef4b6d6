"""A journal on storage that fails or is damaged, and one whose records a snapshot replaced."""

import json
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from pyarrow import fs

from actors.journal.journal import begun_with
from system.errors import BrokenStorageError, StorageError
from system.storage.files import Folder
from tests.actors.journal.journals import numbers, open_journal, record_file, write_journal


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_journal(tmp_path / "journal")


def test_entries_are_read_back_with_their_times(written: Path) -> None:
    journal = open_journal(written)
    assert numbers(journal) == [0, 1, 2]
    assert [record.sequence for record in journal.records] == [1, 2, 3]
    times = [journal.header.at, *(record.at for record in journal.records)]
    assert times == sorted(times)
    assert times[1:] == [record.at for record in open_journal(written).records]


def test_the_journal_works_on_an_object_store() -> None:
    """Clusters keep it on storage that has neither rename nor fsync."""
    store = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    folder = Folder(store, "bucket/run/journal", "memory://key:secret@bucket/run/journal")
    journal = open_journal(folder)
    assert "secret" not in journal.location
    journal.append("note", {"number": 0})
    assert numbers(open_journal(folder)) == [0]
    with store.open_output_stream("bucket/run/journal/00000001.json") as torn:
        torn.write(b'{"sequence":1,"ki')
    journal = open_journal(folder)
    assert numbers(journal) == []
    journal.append("note", {"number": 7})
    assert numbers(open_journal(folder)) == [7]


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_torn_last_record_is_dropped_and_replaced(written: Path, keep: int) -> None:
    """It was never acknowledged: the run goes on from the record before."""
    last = record_file(written, 3)
    last.write_bytes(last.read_bytes()[:keep])
    journal = open_journal(written)
    assert numbers(journal) == [0, 1]
    assert last.exists()  # looking at a journal changes nothing
    journal.append("note", {"number": 9})
    assert numbers(open_journal(written)) == [0, 1, 9]


def test_a_flipped_byte_of_the_last_record_is_an_error_or_a_line(
    written: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was whole, so it was acknowledged: a task may have been committed by it."""
    last = record_file(written, 3)
    intact = last.read_bytes()
    end = intact.rindex(b'"crc32"')
    for at in range(len(intact)):
        last.write_bytes(intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :])
        caplog.clear()
        if at < end:
            with pytest.raises(BrokenStorageError, match=rf"{last}: record is broken at byte \d+"):
                open_journal(written)
            continue
        with suppress(BrokenStorageError):  # its end is not there, so that it may look torn
            assert numbers(open_journal(written)) == [0, 1]
            assert [line.startswith(str(last)) for line in caplog.messages] == [True]


def test_a_file_left_half_written_aside_is_ignored(written: Path) -> None:
    (written / ".00000004.json.tmp").write_bytes(b'{"sequence":4')
    journal = open_journal(written)
    assert numbers(journal) == [0, 1, 2]
    journal.append("note", {"number": 3})
    assert numbers(open_journal(written)) == [0, 1, 2, 3]
    assert not list(written.glob(".*.tmp"))


@pytest.mark.parametrize("sequence", [0, 1, 2])
def test_any_flipped_byte_of_an_earlier_record_is_an_error(written: Path, sequence: int) -> None:
    """Figures must never be computed from a damaged journal, however small the damage."""
    file = record_file(written, sequence)
    intact = file.read_bytes()
    for at in range(len(intact)):
        file.write_bytes(intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :])
        with pytest.raises(StorageError, match=rf"{file}: record is broken at byte \d+"):
            open_journal(written)


def test_a_truncated_earlier_record_is_an_error_with_the_byte(written: Path) -> None:
    file = record_file(written, 1)
    file.write_bytes(file.read_bytes()[:25])
    with pytest.raises(StorageError, match=rf"{file}: record is broken at byte (19|2\d)"):
        open_journal(written)


def test_a_record_in_anothers_place_is_an_error(written: Path) -> None:
    record_file(written, 1).write_bytes(record_file(written, 2).read_bytes())
    with pytest.raises(StorageError, match="not record 1"):
        open_journal(written)


@pytest.mark.parametrize("sequence", [0, 1, 2])
def test_a_missing_earlier_record_is_named(written: Path, sequence: int) -> None:
    record_file(written, sequence).unlink()
    with pytest.raises(StorageError, match=f"{record_file(written, sequence)}: record is missing"):
        open_journal(written)


def test_a_journal_of_another_benchmark_is_refused(written: Path) -> None:
    with pytest.raises(StorageError, match=f"{written}.*another benchmark.*abc.*xyz"):
        open_journal(written, fingerprint="xyz")


def test_a_journal_of_another_order_is_refused(written: Path) -> None:
    with pytest.raises(StorageError, match=f"{written}.*tasks.*same order"):
        open_journal(written, tasks=["food", "animals"])


def test_a_journal_of_a_newer_version_is_refused_before_its_records_are_judged(
    written: Path,
) -> None:
    file = record_file(written, 0)
    body = json.loads(file.read_bytes())
    body["payload"]["format"] = 5
    del body["crc32"]
    body["crc32"] = zlib.crc32(json.dumps(body, separators=(",", ":")).encode())
    file.write_text(json.dumps(body, separators=(",", ":")))
    record_file(written, 1).write_bytes(b"a format of the future")
    with pytest.raises(StorageError, match=f"{file}: journal has format 5.*up to 4"):
        open_journal(written)


def test_a_journal_from_before_live_streams_is_read(written: Path) -> None:
    """An interrupted run goes on with a newer promptide."""
    file = record_file(written, 0)
    body = json.loads(file.read_bytes())
    body["payload"] = {"format": 1, "benchmark": "abc", "tasks": ["animals", "food"]}
    del body["crc32"]
    body["crc32"] = zlib.crc32(json.dumps(body, separators=(",", ":")).encode())
    file.write_text(json.dumps(body, separators=(",", ":")))
    assert numbers(open_journal(written)) == [0, 1, 2]
    with pytest.raises(StorageError, match=rf"{file}: journal has stream\.live=false"):
        open_journal(written, live=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StorageError, match=f"{tmp_path}/file/journal"):
        open_journal(tmp_path / "file" / "journal")
    with pytest.raises(StorageError, match="nosuchscheme"):
        open_journal("nosuchscheme://bucket/journal")


def test_a_full_disk_is_named_and_the_journal_goes_on_once_there_is_room(written: Path) -> None:
    journal = open_journal(written)
    aside = written / ".00000004.json.tmp"
    aside.symlink_to("/dev/full")  # a file that every write fails on with ENOSPC
    with pytest.raises(StorageError, match=r"00000004\.json cannot be written.*No space left"):
        journal.append("note", {"number": 3})
    assert numbers(journal) == [0, 1, 2]
    assert not aside.is_symlink()
    journal.append("note", {"number": 4})
    assert numbers(open_journal(written)) == [0, 1, 2, 4]


@pytest.fixture
def compacted(written: Path) -> Path:
    """The same journal, its three entries in a snapshot, and one entry after it."""
    journal = open_journal(written)
    journal.compact({"sum": 3})
    journal.append("note", {"number": 3})
    return written


def snapshot_file(directory: Path, sequence: int) -> Path:
    return directory / f"snapshot-{sequence:08d}.json"


def test_a_compacted_journal_holds_the_state_and_what_came_after(compacted: Path) -> None:
    """A stream without an end must not need ever more files, nor ever more time to start."""
    assert sorted(file.name for file in compacted.glob("*.json")) == [
        "00000004.json",
        "snapshot-00000004.json",
    ]
    journal = open_journal(compacted)
    assert (journal.state, numbers(journal), journal.tail) == ({"sum": 3}, [3], 1)
    assert (journal.header.payload["tasks"], journal.header.sequence) == (["animals", "food"], 0)
    assert begun_with(Folder.of(compacted)) == ["animals", "food"]
    journal.compact({"sum": 6})
    journal.compact({"sum": 6})  # nothing came since
    again = open_journal(compacted)
    assert (again.state, numbers(again), again.tail) == ({"sum": 6}, [], 0)
    again.append("note", {"number": 4})
    assert numbers(open_journal(compacted)) == [4]
    assert len(list(compacted.glob("*.json"))) == 2


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_torn_snapshot_is_passed_over(written: Path, keep: int) -> None:
    """It was never acknowledged: all that it replaces is still there."""
    open_journal(written).compact({"sum": 3})
    torn = snapshot_file(written, 4)
    torn.write_bytes(torn.read_bytes()[:keep])
    journal = open_journal(written)
    assert (journal.state, numbers(journal)) == (None, [0, 1, 2])
    journal.append("note", {"number": 3})
    assert not torn.exists()
    assert numbers(open_journal(written)) == [0, 1, 2, 3]


@pytest.mark.parametrize("left", [(), (0,), (3,), (1, 2), (0, 1, 2)])
def test_a_flipped_byte_in_a_snapshot_is_an_error_with_its_place(
    written: Path, left: tuple[int, ...]
) -> None:
    """However many of the records that it replaces were removed already."""
    journal = open_journal(written)
    whole = {number: record_file(written, number).read_bytes() for number in range(4)}
    journal.compact({"sum": 3})
    journal.append("note", {"number": 3})
    for number in left:
        record_file(written, number).write_bytes(whole[number])
    file = snapshot_file(written, 4)
    intact = file.read_bytes()
    for at in range(0, len(intact), 7):
        file.write_bytes(intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :])
        with pytest.raises(StorageError, match=rf"{file}: record is broken at byte \d+"):
            open_journal(written)
    file.write_bytes(intact[:25])
    with pytest.raises(StorageError, match=rf"{file}: record is broken at byte (19|2\d)"):
        begun_with(Folder.of(written))


def test_a_compacted_journal_is_refused_where_a_whole_one_is(compacted: Path) -> None:
    with pytest.raises(StorageError, match=r"snapshot-00000004.*another benchmark.*abc.*xyz"):
        open_journal(compacted, fingerprint="xyz")
    with pytest.raises(StorageError, match=r"snapshot-00000004.*tasks.*same order"):
        open_journal(compacted, tasks=["food", "animals"])
    with pytest.raises(StorageError, match=r"snapshot-00000004.*stream\.live=false"):
        open_journal(compacted, live=True)
    open_journal(compacted).append("note", {"number": 4})
    record_file(compacted, 4).unlink()
    with pytest.raises(StorageError, match=f"{record_file(compacted, 4)}: record is missing"):
        open_journal(compacted)
    file = snapshot_file(compacted, 4)
    body = json.loads(file.read_bytes())
    body["payload"] = {"header": {"format": 5}, "what": "a format of the future"}
    del body["crc32"]
    body["crc32"] = zlib.crc32(json.dumps(body, separators=(",", ":")).encode())
    file.write_text(json.dumps(body, separators=(",", ":")))
    with pytest.raises(StorageError, match=f"{file}: journal has format 5.*up to 4"):
        open_journal(compacted)


def test_a_writer_that_was_away_while_another_compacted_is_refused(written: Path) -> None:
    """Its record would be acknowledged, and never read: a commit lost."""
    stale, current = open_journal(written), open_journal(written)
    current.append("note", {"number": 3})
    current.compact({"sum": 6})
    current.append("note", {"number": 4})
    for _ in range(2):
        with pytest.raises(StorageError, match=r"00000004\.json: written by another process"):
            stale.append("note", {"number": 3})
    with pytest.raises(StorageError, match="written by another process"):
        stale.compact({"sum": 3})
    assert numbers(open_journal(written)) == [4]


def test_a_reader_meets_a_writer_that_compacts(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`promptide stream status` reads the journal of a run that goes on."""
    writer, list_names, looks = open_journal(written), Folder.names, list[str]()

    def names(directory: Folder) -> list[str]:
        found = list_names(directory)
        if not looks:  # between the reader's list and its reads
            looks.append("first")
            writer.compact({"sum": 3})
            writer.append("note", {"number": 3})
        return found

    monkeypatch.setattr(Folder, "names", names)
    reader = open_journal(written)
    assert (reader.state, numbers(reader)) == ({"sum": 3}, [3])


def test_a_compaction_that_finds_no_room_leaves_the_journal_as_it_was(written: Path) -> None:
    journal = open_journal(written)
    aside = written / ".snapshot-00000004.json.tmp"
    aside.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"snapshot-00000004\.json cannot be written.*No space"):
        journal.compact({"sum": 3})
    assert numbers(open_journal(written)) == [0, 1, 2]
    journal.append("note", {"number": 3})
    journal.compact({"sum": 6})
    assert open_journal(written).state == {"sum": 6}

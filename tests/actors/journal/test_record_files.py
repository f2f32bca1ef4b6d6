"""The bytes of records, and the files that hold one each: new, whole and in one writer's order."""

import os
from datetime import datetime, timezone
from pathlib import Path

import pytest

from actors.journal.record_files import BrokenRecordError, RecordFiles, decode, encode
from system.errors import StorageError
from system.storage.files import Folder, TakenStorageError

BODY = {"sequence": 3, "kind": "note", "at": "2026-01-02T03:04:05+00:00", "payload": {"x": 0.1}}


@pytest.fixture
def files(tmp_path: Path) -> RecordFiles:
    return RecordFiles(Folder.of(tmp_path))


def test_a_record_comes_back_as_it_was() -> None:
    record = decode(3, encode(BODY))
    assert (record.kind, record.payload) == ("note", {"x": 0.1})
    assert record.at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("content", "message", "offset"),
    [
        (b"\xff", "not text", 0),
        (b'{"sequence":3,', "not JSON", 14),
        (b"[]", "not record 3", 0),
        (encode({**BODY, "sequence": 4}), "not record 3", 0),
        (encode(BODY).replace(b"0.1", b"0.2"), "checksum differs", 0),
        (encode(BODY).replace(b"0.1", b"0.10"), "checksum differs", 0),
    ],
)
def test_a_broken_record_tells_where(content: bytes, message: str, offset: int) -> None:
    with pytest.raises(BrokenRecordError, match=message) as broken:
        decode(3, content)
    assert broken.value.offset == offset


def test_another_process_s_file_is_neither_replaced_nor_removed(files: RecordFiles) -> None:
    """It holds a record that was acknowledged to somebody else."""
    files.folder.write("1", b"theirs")
    for _ in range(2):
        with pytest.raises(TakenStorageError, match="/1: written by another process"):
            files.write("1", b"ours")
    with pytest.raises(TakenStorageError, match="/3: written by another process"):
        files.write("3", b"ours", after="2")  # another one compacted the journal meanwhile
    files.write("2", b"ours", after="1")
    assert files.read("1") == b"theirs"
    assert files.names() == {"1", "2"}


def test_a_file_whose_write_failed_is_gone_before_the_next(
    files: RecordFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is under its name, but was not acknowledged: the next may be another record."""
    files.write("0", b"first")
    sync, calls = os.fsync, [0]

    def fail_for_the_folder(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(5, "Input/output error")
        sync(descriptor)

    with monkeypatch.context() as patches:
        patches.setattr(os, "fsync", fail_for_the_folder)
        with pytest.raises(StorageError, match="/1 cannot be written"):
            files.write("1", b"ours", after="0")
    assert files.read("1") == b"ours"
    files.write("1", b"again", after="0")
    files.discard_before_next_write("0")
    files.write("2", b"next", after="1")
    assert files.names() == {"1", "2"}
    assert files.read("1") == b"again"

"""Files are whole or absent, and a storage that fails says which path and what to do."""

import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from system.errors import StorageError
from system.storage.files import Folder, TakenStorageError, WholeFile


@pytest.fixture(params=["path", "uri"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    root = tmp_path / "deep" / "folder"
    return Folder.of(f"file://{root}/" if request.param == "uri" else root)


def test_bytes_json_and_tables_come_back(folder: Folder) -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    folder.write("a.bin", b"\x00\xff")
    folder.child("inner").write_json("b.json", {"x": [1, None, "ü"]})
    folder.write_table("c.parquet", table)
    assert folder.read("a.bin") == b"\x00\xff"
    assert folder.read_json("inner/b.json") == {"x": [1, None, "ü"]}
    assert folder.read_table("c.parquet").equals(table)
    assert folder.names() == ["a.bin", "c.parquet", "inner"]
    assert folder.exists("inner/b.json")
    assert folder.file_uri("a.bin") == f"{folder.uri}/a.bin"


def test_a_missing_folder_is_empty_not_an_error(folder: Folder) -> None:
    assert folder.names() == []
    assert not folder.exists("anything")
    folder.delete("anything")


def test_delete_removes_and_may_be_repeated(folder: Folder) -> None:
    folder.write("a", b"1")
    folder.delete("a")
    folder.delete("a")
    assert not folder.exists("a")


def test_probe_leaves_nothing_behind(folder: Folder) -> None:
    folder.probe()
    assert folder.names() == []


def test_a_folder_travels_to_a_worker(folder: Folder) -> None:
    folder.write("a", b"1")
    assert pickle.loads(pickle.dumps(folder)).read("a") == b"1"


def test_relative_paths_hold_when_the_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray workers start elsewhere: a relative path would mean another folder there."""
    monkeypatch.chdir(tmp_path)
    folder = Folder.of("runs")
    monkeypatch.chdir("/")
    folder.write("a", b"1")
    assert (tmp_path / "runs" / "a").read_bytes() == b"1"


def test_a_crash_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-written metrics.json or adapter would be taken for a whole one."""
    folder = Folder.of(tmp_path)
    folder.write("a", b"old")

    def crash(aside: str, target: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("system.storage.files.os.replace", crash)
        with pytest.raises(KeyboardInterrupt):
            folder.write("a", b"new")
    assert folder.read("a") == b"old"
    folder.write("a", b"new")
    assert folder.read("a") == b"new"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "the filesystem is read-only"),
        (errno.EACCES, "no permission"),
        (errno.EIO, "check the storage"),
    ],
)
def test_a_storage_that_cannot_be_written_names_path_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    folder = Folder.of(tmp_path)
    folder.write("a", b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(number, "refused")

    with monkeypatch.context() as patch:
        patch.setattr("system.storage.files.os.fsync", refuse)
        with pytest.raises(StorageError, match=rf"/a cannot be written \(refused\).*{remedy}"):
            folder.write("a", b"new")
        with pytest.raises(StorageError, match=remedy):
            folder.probe()
    assert folder.names() == ["a"], "a part file was left"
    assert folder.read("a") == b"old"


def test_a_new_file_replaces_none(folder: Folder) -> None:
    """Else a second process's record of the journal would take the place of an acknowledged one."""
    with pytest.raises(StorageError, match=r"a cannot be written .*check the storage"):
        folder.write("a", b"1", new=True)  # its folder was taken away
    folder.make()
    folder.write("a", b"1", new=True)
    with pytest.raises(TakenStorageError, match=r"/a: written by another process"):
        folder.write("a", b"2", new=True)
    assert folder.read("a") == b"1"


def test_what_a_dead_writer_of_a_new_file_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.tmp").write_bytes(b"half of")
    folder = Folder.of(tmp_path)
    folder.write("a", b"1", new=True)
    assert folder.names() == ["a"]
    assert folder.read("a") == b"1"


def test_a_stream_is_a_file_once_it_is_finished(tmp_path: Path) -> None:
    """Shards are written for minutes: half of one must neither be met nor stay behind."""
    path, store = str(tmp_path / "shard"), Folder.of(tmp_path).filesystem
    file = WholeFile(store, path)
    file.stream.write(b"half")
    assert not Path(path).exists()
    file.abandon()
    assert list(tmp_path.iterdir()) == []
    first, second = WholeFile(store, path, ".1"), WholeFile(store, path, ".2")
    for file, data in ((first, b"one"), (second, b"two")):
        file.stream.write(data)
    first.finish()
    assert Path(path).read_bytes() == b"one"
    second.finish()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("shard", b"two")]


def test_a_message_names_no_password() -> None:
    store = pafs.PyFileSystem(pafs.FSSpecHandler(MemoryFileSystem()))
    folder = Folder(store, "bucket/runs", "s3://key:secret@bucket/runs?region=eu-west-1")
    with pytest.raises(StorageError, match="bucket/runs/a cannot be read") as missing:
        folder.read("a")
    assert "secret" not in str(missing.value)


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (Folder.of(tmp_path / "file"), Folder.of(tmp_path / "file" / "inner")):
        with pytest.raises(StorageError, match=r"file.*cannot be written.*in the way"):
            folder.write("a", b"1")
    with pytest.raises(StorageError, match="cannot be listed"):
        Folder.of(tmp_path / "file").names()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="a folder of that name is in the way"):
        Folder.of(tmp_path).write("folder", b"1")
    with pytest.raises(StorageError, match="folder cannot be deleted"):
        Folder.of(tmp_path).delete("folder")


def test_storage_that_gives_back_other_bytes_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "read", lambda self, name: b"other")
    with pytest.raises(StorageError, match="gave back other bytes"):
        Folder.of(tmp_path).probe()


def test_a_path_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(StorageError, match=r"nosuch://bucket/x.*no filesystem"):
        Folder.of("nosuch://bucket/x")


def test_a_tilde_before_no_user_s_name_is_part_of_the_name() -> None:
    """A file manager makes such folders; a traceback about a home directory helps nobody."""
    assert Folder.of("~no-such-user-here/runs").path.endswith("/~no-such-user-here/runs")


def test_a_bucket_s_options_stay_behind_the_path() -> None:
    """Or a worker that gets the folder's address opens another place."""
    folder = Folder(None, "bucket/runs", "s3://bucket/runs?region=eu-west-1").child("one")
    assert folder.uri == "s3://bucket/runs/one?region=eu-west-1"
    assert folder.file_uri("a") == "s3://bucket/runs/one/a?region=eu-west-1"


def damaged_table() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": list(range(1000))}), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data[:200] + b"\xff" * 100 + data[300:]


Read = Callable[[Folder, str], Any]


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (Folder.read, None, "cannot be read"),
        (Folder.read_json, None, "cannot be read"),
        (Folder.read_json, b"{", "is not valid JSON"),
        (Folder.read_json, b"\xff\xfe", "is not valid JSON"),
        (Folder.read_table, b"", "is not Parquet"),
        (Folder.read_table, b"x" * 99, "is not Parquet"),
        (Folder.read_table, damaged_table(), "is not Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, read: Read, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(StorageError, match=f"{tmp_path}/a {message}"):
        read(Folder.of(tmp_path), "a")


def test_nan_is_not_written_as_json(tmp_path: Path) -> None:
    """NaN is no JSON: other readers would refuse the whole file."""
    with pytest.raises(ValueError, match="JSON compliant"):
        Folder.of(tmp_path).write_json("a", {"x": float("nan")})
    assert Folder.of(tmp_path).names() == []


def test_an_error_keeps_its_message_on_its_way_from_the_actor() -> None:
    """Ray pickles errors: one that writes its message anew would say it twice."""
    error = TakenStorageError.at("runs/demo/stream/1")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)

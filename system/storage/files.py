"""Small files on a local path or any pyarrow filesystem: written whole or not at all."""

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from system.errors import StorageError
from system.uris import absolute, join


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """Open the filesystem of a path or URI.

    Returns: the filesystem and the path inside it.
    Raises: StorageError for a scheme that pyarrow does not know or cannot reach.
    """
    if "://" not in uri:
        return pafs.LocalFileSystem(), absolute(uri)
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageError(
            f"{uri}: no filesystem for this address ({error}): give a local path or a URI that "
            "pyarrow.fs.FileSystem.from_uri reads"
        ) from error
    return filesystem, path


@contextmanager
def storage_errors(uri: str, action: str) -> Iterator[None]:
    """Turn the operating system's errors inside the block into a StorageError on `uri`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{uri}: cannot {action} ({error}): check that the place exists, has room and may be "
            "written to"
        ) from error


@dataclass(frozen=True)
class Folder:
    """A folder by its URI or path. All names are relative to it.

    Every failure of the storage comes out as StorageError with the path and what to do.
    """

    filesystem: Any  # pyarrow.pafs.FileSystem
    path: str
    uri: str

    @classmethod
    def of(cls, uri: str | Path) -> "Folder":
        """The folder at a local path (made absolute) or a URI such as s3://bucket/runs."""
        try:
            place = absolute(str(uri))
        except RuntimeError as error:  # ~name of a user that is not
            raise StorageError(f"storage path {str(uri)!r} cannot be opened: {error}") from error
        filesystem, path = filesystem_of(place)
        return cls(filesystem, path.rstrip("/"), place.rstrip("/"))

    def child(self, name: str) -> "Folder":
        """A folder inside this one; it need not exist."""
        return Folder(self.filesystem, f"{self.path}/{name}", join(self.uri, name))

    def file_uri(self, name: str) -> str:
        """The full path or URI of a file here."""
        return join(self.uri, name)

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is here."""
        try:
            found = self.filesystem.get_file_info(f"{self.path}/{name}")
        except OSError as error:
            raise StorageError(f"{self.file_uri(name)} cannot be looked up: {error}") from error
        return bool(found.type != pafs.FileType.NotFound)

    def names(self) -> list[str]:
        """Sorted names of the files directly here; none if the folder does not exist."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        try:
            return sorted(info.base_name for info in self.filesystem.get_file_info(selector))
        except OSError as error:
            raise StorageError(f"{self.uri} cannot be listed: {error}") from error

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises StorageError if it is missing or unreadable."""
        try:
            with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                return bytes(stream.read())
        except OSError as error:
            raise StorageError(f"{self.file_uri(name)} cannot be read: {error}") from error

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """A file of bytes to read parts of. Raises StorageError if it is missing or unreadable."""
        try:
            with self.filesystem.open_input_file(f"{self.path}/{name}") as stream:
                yield stream
        except OSError as error:
            raise StorageError(f"{self.file_uri(name)} cannot be read: {error}") from error

    def make(self) -> None:
        """Create the folder if it is not there."""
        try:
            self.filesystem.create_dir(self.path, recursive=True)
        except OSError as error:
            raise StorageError(_why_not_written(self.uri, error)) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole: readers see the old bytes or the new ones, also after a crash."""
        target = f"{self.path}/{name}"
        try:
            self.filesystem.create_dir(os.path.dirname(target), recursive=True)
            if isinstance(self.filesystem, pafs.LocalFileSystem):
                _write_local(Path(target), data)
            else:  # an object store shows an object only once it is complete
                with self.filesystem.open_output_stream(target) as stream:
                    stream.write(data)
        except OSError as error:
            raise StorageError(_why_not_written(self.file_uri(name), error)) from error

    def delete(self, name: str) -> None:
        """Remove a file; it is no error if it is gone already."""
        if not self.exists(name):
            return
        try:
            self.filesystem.delete_file(f"{self.path}/{name}")
        except OSError as error:
            raise StorageError(f"{self.file_uri(name)} cannot be deleted: {error}") from error

    def read_json(self, name: str) -> Any:
        """A JSON file's value. Raises StorageError naming the file if it does not parse."""
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise StorageError(f"{self.file_uri(name)} is not valid JSON: {error}") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON; NaN is refused, since JSON has none."""
        text = json.dumps(value, indent=2, allow_nan=False)
        self.write(name, (text + "\n").encode())

    def write_table(self, name: str, table: Any) -> None:
        """Write an Arrow table as one Parquet file."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self.write(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str) -> Any:
        """Read a Parquet file as an Arrow table. Raises StorageError naming it if damaged."""
        data = self.read(name)
        try:
            return pq.read_table(pa.BufferReader(data))
        except (pa.ArrowException, OSError) as error:  # OSError: damaged pages or footer
            raise StorageError(f"{self.file_uri(name)} is not Parquet: {error}") from error

    def probe(self) -> None:
        """Write a file and read it back. Raises StorageError if either fails."""
        name, data = f".probe-{uuid.uuid4().hex}", os.urandom(64)
        self.write(name, data)
        back = self.read(name)
        self.delete(name)
        if back != data:
            raise StorageError(f"{self.uri} gave back other bytes than were written; check it")


def _write_local(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the rename may be lost with the power
    finally:
        os.close(folder)


def _why_not_written(uri: str, error: OSError) -> str:
    remedies = {
        errno.ENOSPC: "the disk is full; free space or set another storage_path",
        errno.EDQUOT: "the quota is used up; free space or set another storage_path",
        errno.EROFS: "the filesystem is read-only; set another storage_path",
        errno.EACCES: "no permission to write there; set another storage_path",
        errno.ENOTDIR: "a file is in the way of a folder; set another storage_path",
        errno.EISDIR: "a folder of that name is in the way; set another storage_path",
        errno.EEXIST: "a file is in the way of a folder; set another storage_path",
    }
    remedy = remedies.get(error.errno or 0, "check the storage or set another storage_path")
    return f"{uri} cannot be written ({error.strerror or error}): {remedy}"

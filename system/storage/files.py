"""Small files on a local path or any pyarrow filesystem: written whole or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from system.errors import BrokenStorageError, StorageError
from system.storage.foreign_json import MOST_BYTES, parse_json, require_size
from system.storage.foreign_tables import TableGroups, read_table
from system.storage.remedies import remedy_of
from system.storage.seal import DamagedError, check_json, check_table, json_file, table_file
from system.uris import absolute, join

if TYPE_CHECKING:  # imported where it is used: adapters are also read where there is no pyarrow
    import pyarrow as pa
    from pyarrow.fs import FileSystem


class TakenStorageError(StorageError):
    """A file that should be new is there already, or the one that it follows is gone."""

    @classmethod
    def at(cls, place: str) -> TakenStorageError:
        """The error for the file at `place`."""
        return cls(
            f"{place}: written by another process; only one run may use a directory: stop the "
            "other or choose another run name"
        )


def filesystem_of(uri: str) -> tuple[FileSystem, str]:
    """Open the filesystem of a path or URI.

    Returns: the filesystem and the path inside it.
    Raises: StorageError for a scheme that pyarrow does not know or cannot reach.
    """
    import pyarrow as pa
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" not in uri:
        return LocalFileSystem(), absolute(uri)
    try:
        filesystem, path = FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StorageError(
            f"{uri}: no filesystem for this address ({error}): give a local path or a URI that "
            "pyarrow.fs.FileSystem.from_uri reads"
        ) from error
    return filesystem, path


def is_local(filesystem: FileSystem) -> bool:
    """Whether files can be renamed and synced there."""
    return bool(filesystem.type_name == "local")


def storage_errors(place: str, action: str, setting: str) -> AbstractContextManager[None]:
    """Turn the storage's errors inside the block into a StorageError on `place`.

    `setting` is the key of the config that another place may be set by.
    """
    return _translated(f"{place}: cannot {action}", setting)


@contextmanager
def _translated(what: str, setting: str | None) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or error
        more = f" ({why}): {_remedy(error, setting)}" if setting else f": {error}"
        raise StorageError(what + more) from error


class WholeFile:
    """A stream of bytes that becomes a file in one step: whole, or not at all.

    On a local filesystem it is written aside, synced and renamed. Elsewhere it is written in place:
    object stores show an object only once it is complete. What a process that dies leaves aside is
    overwritten by its next attempt; several processes that may write the file at once each give a
    `mark` of their own. All methods raise the storage's own errors.
    """

    def __init__(self, filesystem: FileSystem, path: str, mark: str = "") -> None:
        self._path = path
        self._aside: str | None = None
        self.stream: Any
        if is_local(filesystem):
            folder, _, name = path.rpartition("/")
            self._aside = f"{folder}/.{name}{mark}.tmp"
            self.stream = open(self._aside, "wb")  # noqa: SIM115  # see `finish` and `abandon`
        else:
            self.stream = filesystem.open_output_stream(path)

    def finish(self) -> None:
        """Put the file under its name; when this returns, it outlives a power cut."""
        if self._aside is None:
            self.stream.close()
            return
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        os.replace(self._aside, self._path)
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY)
        try:
            os.fsync(folder)  # or the rename may be lost with the power
        finally:
            os.close(folder)

    def abandon(self) -> None:
        """Let go of an unfinished file, after an error, which is the one to show."""
        with suppress(Exception):
            self.stream.close()
        if self._aside is not None:
            with suppress(OSError):
                os.unlink(self._aside)


@dataclass(frozen=True)
class Folder:
    """A folder by its URI or path. All names are relative to it.

    Every failure of the storage comes out as StorageError with the path and what to do.
    `setting` is the key of the config that says where it lies.
    """

    filesystem: FileSystem
    path: str
    uri: str
    setting: str = "storage_path"

    @classmethod
    def of(cls, uri: str | Path, setting: str = "storage_path") -> Folder:
        """The folder at a local path (made absolute) or a URI such as s3://bucket/runs."""
        place = absolute(str(uri))
        filesystem, path = filesystem_of(place)
        return cls(filesystem, path.rstrip("/"), place.rstrip("/"), setting)

    def child(self, name: str) -> Folder:
        """A folder inside this one; it need not exist."""
        return replace(self, path=f"{self.path}/{name}", uri=join(self.uri, name))

    def file_uri(self, name: str) -> str:
        """The full path or URI of a file here."""
        return join(self.uri, name)

    @property
    def location(self) -> str:
        """The folder as a message names it: without the credentials that its URI may hold."""
        if is_local(self.filesystem):
            return self.path
        return f"{self.filesystem.type_name}://{self.path}"

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is here."""
        with self._errors(name, "looked up"):
            found = self.filesystem.get_file_info(f"{self.path}/{name}")
        return bool(found.type.name != "NotFound")

    def names(self) -> list[str]:
        """Sorted names of the files directly here; none if the folder does not exist."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(self.path, allow_not_found=True)
        with self._errors("", "listed"):
            return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises StorageError if it is missing or unreadable."""
        with (
            self._errors(name, "read"),
            self.filesystem.open_input_stream(f"{self.path}/{name}") as stream,
        ):
            return bytes(stream.read())

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """A file of bytes to read parts of. Raises StorageError if it is missing or unreadable."""
        with (
            self._errors(name, "read"),
            self.filesystem.open_input_file(f"{self.path}/{name}") as stream,
        ):
            yield stream

    def make(self) -> None:
        """Create the folder if it is not there."""
        with self._errors("", "written"):
            self.filesystem.create_dir(self.path, recursive=True)

    def write(self, name: str, data: bytes, *, new: bool = False) -> None:
        """Write a file whole: readers see the old bytes or the new ones, also after a crash.

        A `new` file must not be there yet (TakenStorageError), in a folder that is; the look and
        the write are two steps, so that one process at a time may write new files.
        """
        target = f"{self.path}/{name}"
        if new and self.exists(name):
            raise TakenStorageError.at(self._place(name))
        with self._errors(name, "written"):
            if not new:
                self.filesystem.create_dir(os.path.dirname(target), recursive=True)
            file = WholeFile(self.filesystem, target, "" if new else f".{uuid.uuid4().hex}")
            try:
                file.stream.write(data)
                file.finish()
            except Exception:
                file.abandon()
                raise

    def delete(self, name: str) -> None:
        """Remove a file; it is no error if it is gone already."""
        if not self.exists(name):
            return
        with self._errors(name, "deleted"):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def read_json(self, name: str) -> Any:
        """A JSON file's value.

        Raises BrokenStorageError naming the file if it is damaged, or `parse_json` refuses it.
        """
        try:
            with self.opened(name) as stream:
                require_size(stream.size(), MOST_BYTES)
                data = bytes(stream.read())
            return check_json(data, parse_json(data))
        except ValueError as error:
            raise self._broken(name, f"is not valid JSON: {error}") from error
        except DamagedError as error:
            raise self.damaged(name, error) from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON, an object with a seal; NaN is refused, since JSON has none."""
        self.write(name, json_file(value))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write an Arrow table as one Parquet file, with a seal."""
        self.write_tables(name, table.schema, [table])

    def write_tables(self, name: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        """Write tables of one schema as one Parquet file, one after the other, with a seal."""
        self.write(name, table_file(schema, tables))

    def read_table(self, name: str, *, values: bool = True) -> pa.Table:
        """Read a Parquet file as an Arrow table, within the bounds of `foreign_tables.read_table`.

        Raises BrokenStorageError naming it if it is damaged or unfolds beyond them.
        """
        with self._parquet(name):
            data = self.read(name)
            check_table(data)
            return read_table(data, values=values)

    def table_groups(self, name: str) -> Iterable[pa.Table]:
        """The tables of a Parquet file's row groups, to be gone through any number of times.

        Within the bounds of `foreign_tables.TableGroups`. Raises as `read_table` does.
        """
        with self._parquet(name):
            data = self.read(name)
            check_table(data)
            return _Groups(self, name, TableGroups(data))

    @contextmanager
    def _parquet(self, name: str) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError) as error:  # OSError: damaged pages or footer
            raise self._broken(name, f"is not Parquet: {error}") from error
        except DamagedError as error:
            raise self.damaged(name, error) from error

    def damaged(self, name: str, why: object) -> BrokenStorageError:
        """The error for a file here whose bytes are not those that were written."""
        return self._broken(name, f"is damaged ({why})")

    def missing(self, name: str) -> BrokenStorageError:
        """The error for a file that is gone though others tell of it."""
        return self._broken(name, "is missing")

    def _broken(self, name: str, what: str) -> BrokenStorageError:
        return BrokenStorageError(f"{self._place(name)} {what}: {remedy_of(name)}")

    def probe(self, size: int = 64) -> None:
        """Write a file of `size` bytes and read it back. Raises StorageError if either fails."""
        name, data = f".probe-{uuid.uuid4().hex}", os.urandom(size)
        self.write(name, data)
        back = self.read(name)
        self.delete(name)
        if back != data:
            raise StorageError(f"{self.location} gave back other bytes than were written; check it")

    def _place(self, name: str) -> str:
        return join(self.location, name) if name else self.location

    def _errors(self, name: str, action: str) -> AbstractContextManager[None]:
        what = f"{self._place(name)} cannot be {action}"
        return _translated(what, self.setting if action == "written" else None)


@dataclass(frozen=True)
class _Groups:
    """Row groups of a folder's file; what is damaged in them is named when it is read."""

    folder: Folder
    name: str
    groups: TableGroups

    def __iter__(self) -> Iterator[pa.Table]:
        tables = iter(self.groups)
        while True:
            with self.folder._parquet(self.name):  # not while the caller works on a table
                table = next(tables, None)
            if table is None:
                return
            yield table


def _remedy(error: Exception, setting: str) -> str:
    remedies = {
        errno.ENOSPC: f"the disk is full; free space or set another {setting}",
        errno.EDQUOT: f"the quota is used up; free space or set another {setting}",
        errno.EROFS: f"the filesystem is read-only; set another {setting}",
        errno.EACCES: f"no permission to write there; set another {setting}",
        errno.ENOTDIR: f"a file is in the way of a folder; set another {setting}",
        errno.EISDIR: f"a folder of that name is in the way; set another {setting}",
        errno.EEXIST: f"a file is in the way of a folder; set another {setting}",
    }
    number = getattr(error, "errno", None) or 0
    return remedies.get(number, f"check the storage or set another {setting}")

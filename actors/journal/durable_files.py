"""A directory of small files on any pyarrow filesystem, each written whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from pyarrow import fs

from system.errors import StorageError
from system.storage.files import filesystem_of

_REMOVERS = 16  # an object store takes tens of ms for each
_FAILURES = (OSError, pa.ArrowException)


class DurableDirectory:
    """Reads files of one directory, and writes new ones so that they outlive a crash.

    On a local filesystem a file is written aside, synced and renamed. Elsewhere it is written in
    place: object stores show an object only once it is complete. All methods raise `StorageError`,
    which names the path.
    """

    def __init__(self, uri: str, filesystem: fs.FileSystem | None = None) -> None:
        found, path = filesystem_of(uri) if filesystem is None else (filesystem, uri)
        self._fs, self._root = found, path.rstrip("/")
        self._local = isinstance(self._fs, fs.LocalFileSystem)
        self._leftovers: set[str] = set()
        try:
            self._fs.create_dir(self._root, recursive=True)
        except _FAILURES as error:
            raise StorageError(
                f"{self.location}: cannot be used as a directory ({error}); choose a writable place"
            ) from error

    @property
    def location(self) -> str:
        """The directory, without the credentials that its URI may hold."""
        return self._root if self._local else f"{self._fs.type_name}://{self._root}"

    def path(self, name: str) -> str:
        """Return where file `name` lies, for messages."""
        return f"{self.location}/{name}"

    def names(self) -> list[str]:
        """Return the names of the files."""
        try:
            found = self._fs.get_file_info(fs.FileSelector(self._root))
        except _FAILURES as error:
            raise StorageError(f"{self.location}: cannot be listed ({error})") from error
        return [info.base_name for info in found if info.is_file]

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        try:
            with self._fs.open_input_stream(f"{self._root}/{name}") as stream:
                return bytes(stream.read())
        except _FAILURES as error:
            raise StorageError(f"{self.path(name)}: cannot be read ({error})") from error

    def discard_before_next_write(self, *names: str) -> None:
        """Have files that nobody needs removed before anything else is written."""
        self._leftovers.update(names)

    def write(self, name: str, content: bytes, after: str | None = None) -> None:
        """Write a new file; when this returns, it is on storage.

        Raises `StorageError` when storage fails or another process has written the file already, or
        removed the one that it comes `after`.
        """
        try:
            self._remove_leftovers()
            if self._has(name) or not (after is None or self._has(after)):
                raise StorageError(
                    f"{self.path(name)}: written by another process; only one run may use a "
                    f"directory: stop the other or choose another run name"
                )
            # Until it succeeds, a failed write may have left the file behind.
            self._leftovers.add(name)
            if self._local:
                self._write_local(name, content)
            else:
                with self._fs.open_output_stream(f"{self._root}/{name}") as stream:
                    stream.write(content)
        except _FAILURES as error:
            raise StorageError(
                f"{self.path(name)}: cannot be written ({error}); free space or mend the "
                f"permissions, then run the same command again"
            ) from error
        self._leftovers.discard(name)

    def _has(self, name: str) -> bool:
        return bool(self._fs.get_file_info(f"{self._root}/{name}").type != fs.FileType.NotFound)

    def _write_local(self, name: str, content: bytes) -> None:
        aside = f"{self._root}/.{name}.tmp"  # overwritten by the next attempt if this one dies
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, f"{self._root}/{name}")
        directory = os.open(self._root, os.O_RDONLY)
        try:
            os.fsync(directory)  # the rename itself must survive a power cut too
        finally:
            os.close(directory)

    def _remove_leftovers(self) -> None:
        with ThreadPoolExecutor(_REMOVERS) as removers:
            list(removers.map(self._remove, self._leftovers))
        self._leftovers.clear()

    def _remove(self, name: str) -> None:
        if self._has(name):
            self._fs.delete_file(f"{self._root}/{name}")

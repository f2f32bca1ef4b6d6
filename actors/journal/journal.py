"""The task stream's journal: numbered records on storage, each durable before it is acknowledged.

One record is one object, `<directory>/00000012.json`: {sequence, kind, at, payload, crc32}. Record
0 is the header: the format's version, the benchmark's fingerprint, the tasks of the start in their
order, and whether the stream is live. One object a record needs no append, which object stores do
not have, and makes each all or nothing.

`snapshot-00000012.json` holds the state after records 0 to 11, and the header. Those are removed
once it is on storage; whatever of them is still there is not read any more.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, TypeVar

from actors.journal.record_files import (
    BrokenRecordError,
    Record,
    RecordFiles,
    decode,
    encode,
)
from system.errors import BrokenStorageError, StorageError
from system.storage.files import Folder

FORMAT_VERSION = 4
#: 1 had no live streams, 2 no snapshots and no order in an append, 3 whole rows in a commit.
READABLE_VERSIONS = (1, 2, 3, 4)
_RECORD_NAME = re.compile(r"(\d{8})\.json")
_SNAPSHOT_NAME = re.compile(r"snapshot-(\d{8})\.json")
_READERS = 16  # an object store answers one small read in tens of ms: overlap them
_END = re.compile(rb'"crc32":\d+\}\Z')  # of a record that is all there
LOG = logging.getLogger("promptide")
T = TypeVar("T")
_READINGS = 10  # of a journal that another process writes: it may compact it meanwhile


class Journal:
    """The records of one stream; opening it reads them, or starts it with a header.

    Nothing else uses the `folder`. A torn last record was never acknowledged: it is dropped with a
    line, and removed before the next append. `state` is what the newest snapshot holds (None: there
    is none), `records` what opening found after it. Raises `StorageError` when storage fails, when
    a record is missing before others or broken (with the byte of the break), and when the journal
    is of a newer version or another benchmark (`fingerprint`), starts with other `tasks`, or is
    `live` where it was not.
    """

    def __init__(
        self,
        folder: Folder,
        fingerprint: str,
        tasks: Sequence[str],
        live: bool = False,
    ) -> None:
        folder.make()
        self._files = RecordFiles(folder)
        header = {
            "format": FORMAT_VERSION,
            "benchmark": fingerprint,
            "tasks": list(tasks),
            "live": live,
        }
        self._newest: str | None = None  # the file that was written last
        snapshot, found = _undisturbed(self._files, lambda names: self._read(names, header))
        self._first = snapshot.sequence if snapshot else 0
        self._next = self._first + len(found)
        self.state: dict[str, Any] | None = None
        if snapshot:
            self.state = snapshot.payload["state"]
            self._newest = _snapshot_name(snapshot.sequence)
            self.header, self.records = _header_of(snapshot), found
        elif found:
            self.header, *self.records = found
        else:
            self.header, self.records = self.append("header", header), []
        if found:
            self._newest = _name(found[-1].sequence)

    @property
    def location(self) -> str:
        """Where the journal lies, without credentials."""
        return self._files.folder.location

    @property
    def tail(self) -> int:
        """How many records are in no snapshot."""
        return self._next - self._first

    def append(self, kind: str, payload: Mapping[str, Any]) -> Record:
        """Write the next record and return it as a later reader will see it.

        Raises `TypeError` for a payload that JSON cannot hold, `StorageError` when it cannot be
        written (the journal is then as before the call) or another process wrote this record.
        """
        sequence = self._next
        record = self._write(_name(sequence), sequence, kind, payload)
        self._next += 1
        return record

    def compact(self, state: Mapping[str, Any]) -> None:
        """Replace all records so far by the state after them.

        They are removed before the next record is written. Raises what `append` raises; the
        journal is then as before the call.
        """
        if not self.tail:
            return
        payload = {
            "header": {**self.header.payload, "format": FORMAT_VERSION},
            "begun": self.header.at.isoformat(),
            "state": dict(state),
        }
        covered = [_snapshot_name(self._first), *map(_name, range(self._first, self._next))]
        self._write(_snapshot_name(self._next), self._next, "snapshot", payload)
        self._first = self._next
        self._files.discard_before_next_write(*covered)

    def _write(self, name: str, sequence: int, kind: str, payload: Mapping[str, Any]) -> Record:
        at = datetime.now(timezone.utc)
        try:
            # Through JSON and back, so that the caller sees now what a reader sees after a restart.
            plain: dict[str, Any] = json.loads(json.dumps(payload))
        except (TypeError, ValueError) as error:
            raise TypeError(f"journal record '{kind}' is not JSON: {error}") from error
        body = {"sequence": sequence, "kind": kind, "at": at.isoformat(), "payload": plain}
        self._files.write(name, encode(body), after=self._newest)
        self._newest = name
        return Record(sequence, kind, at, plain)

    def _read(
        self, names: set[str], header: Mapping[str, Any]
    ) -> tuple[Record | None, list[Record]]:
        """The newest snapshot, and all records that are not in it."""
        snapshot = _newest_snapshot(self._files, names)
        if snapshot:  # first of all: what follows may not be in our format
            self._check_header(
                _snapshot_name(snapshot.sequence), snapshot.payload["header"], header
            )
        first = snapshot.sequence if snapshot else 0
        numbers = [number for number in _numbers(_RECORD_NAME, names) if number >= first]
        for expected, number in enumerate(numbers, first):
            if number != expected:
                raise BrokenStorageError(
                    f"{self._files.path(_name(expected))}: record is missing (byte 0) though later "
                    f"ones exist; restore it or start under another run name"
                )
        with ThreadPoolExecutor(_READERS) as readers:
            contents = list(readers.map(self._files.read, map(_name, numbers)))
        records: list[Record] = []
        for number, content in zip(numbers, contents, strict=True):
            try:
                record = decode(number, content)
            except BrokenRecordError as error:
                if number == numbers[-1] and not _END.search(content):
                    LOG.warning(
                        "%s: torn, so never acknowledged: what it was of is done again",
                        self._files.path(_name(number)),
                    )
                    break
                raise error.at(self._files.path(_name(number))) from error
            if number == 0:
                self._check_header(_name(0), record.payload, header)
            records.append(record)
        kept = {_name(record.sequence) for record in records}
        kept |= {_snapshot_name(first)} if snapshot else set()
        ours = {name for name in names if _RECORD_NAME.fullmatch(name)}
        ours |= {name for name in names if _SNAPSHOT_NAME.fullmatch(name)}
        self._files.discard_before_next_write(*(ours - kept))
        return snapshot, records

    def _check_header(
        self, name: str, found: Mapping[str, Any], expected: Mapping[str, Any]
    ) -> None:
        where = self._files.path(name)
        if found.get("format") not in READABLE_VERSIONS:
            raise BrokenStorageError(
                f"{where}: journal has format {found.get('format')}, this version reads up to "
                f"{FORMAT_VERSION}; continue with the promptide that wrote it"
            )
        if found["benchmark"] != expected["benchmark"]:
            raise BrokenStorageError(
                f"{where}: journal is of another benchmark (fingerprint {found['benchmark']}, "
                f"now {expected['benchmark']}); use another run name or the same benchmark"
            )
        if found["tasks"] != expected["tasks"]:
            raise BrokenStorageError(
                f"{where}: journal has the tasks {found['tasks']}, now {expected['tasks']}; "
                f"use another run name or the same tasks in the same order"
            )
        if found.get("live", False) != expected["live"]:
            raise BrokenStorageError(
                f"{where}: journal has stream.live={str(not expected['live']).lower()}; use "
                f"another run name or the same setting"
            )


def begun_with(folder: Folder) -> list[str] | None:
    """The tasks that the journal in `folder` began with, in their order; None if it did not yet.

    Raises `StorageError` when storage fails or the header is broken.
    """
    files = RecordFiles(folder)

    def look(names: set[str]) -> list[str] | None:
        snapshot = _newest_snapshot(files, names)
        if snapshot:
            return list(_header_of(snapshot).payload["tasks"])
        if not _numbers(_RECORD_NAME, names):
            return None
        try:
            return list(decode(0, files.read(_name(0))).payload["tasks"])
        except (BrokenRecordError, KeyError) as error:
            raise BrokenStorageError(
                f"{files.path(_name(0))}: header is broken ({error})"
            ) from error

    return _undisturbed(files, look)


def _undisturbed(files: RecordFiles, look: Callable[[set[str]], T]) -> T:
    """Result of `look` at the files' names; looks again when a writer changed them meanwhile."""
    for more in reversed(range(_READINGS)):
        names = files.names()
        try:
            return look(names)
        except StorageError:
            if not more or files.names() == names:
                raise
    raise AssertionError("the last reading returns or raises")


def _newest_snapshot(files: RecordFiles, names: Collection[str]) -> Record | None:
    """The newest one that is whole.

    A broken one is passed over while all that it replaces is there: it was never acknowledged.
    """
    broken: StorageError | None = None
    needed: set[int] = set()
    found: Record | None = None
    for number in reversed(_numbers(_SNAPSHOT_NAME, names)):
        try:
            found = decode(number, files.read(_snapshot_name(number)))
            break
        except BrokenRecordError as error:
            broken = broken or error.at(files.path(_snapshot_name(number)))
            needed = needed or set(range(number))
    first = found.sequence if found else 0
    if broken and not {n for n in needed if n >= first} <= set(_numbers(_RECORD_NAME, names)):
        raise broken
    return found


def _header_of(snapshot: Record) -> Record:
    begun = datetime.fromisoformat(snapshot.payload["begun"])
    return Record(0, "header", begun, snapshot.payload["header"])


def _name(sequence: int) -> str:
    return f"{sequence:08d}.json"


def _snapshot_name(sequence: int) -> str:
    return f"snapshot-{sequence:08d}.json"


def _numbers(pattern: re.Pattern[str], names: Collection[str]) -> list[int]:
    """The numbers of the files that are named so, in order."""
    return sorted(int(match[1]) for match in map(pattern.fullmatch, names) if match)

"""The task stream's journal: numbered records on storage, each durable before it is acknowledged.

One record is one object, `<directory>/00000012.json`: {sequence, kind, at, payload, crc32}. Record
0 is the header: the format's version, the benchmark's fingerprint, the tasks of the start in their
order, and whether the stream is live. One object a record needs no append, which object stores do
not have, and makes each all or nothing.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from pyarrow import fs

from actors.durable_files import DurableDirectory
from system.errors import StorageError

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # 1 had no live streams
_RECORD_NAME = re.compile(r"(\d{8})\.json")
_READERS = 16  # an object store answers one small read in tens of ms: overlap them


@dataclass(frozen=True)
class Record:
    """One entry of the journal; `at` is when it was written (UTC)."""

    sequence: int
    kind: str
    at: datetime
    payload: dict[str, Any]


class Journal:
    """The records of one stream; opening it reads them, or starts it with a header.

    `uri` is a path or pyarrow filesystem URI of a directory that nothing else uses; `filesystem`
    replaces the one that the URI names. A torn last record was never acknowledged: it is dropped,
    and removed before the next append. Raises `StorageError` when storage fails, when an earlier
    record is missing or broken (with the byte of the break), and when the journal is of a newer
    version or another benchmark (`fingerprint`), starts with other `tasks`, or is `live` where it
    was not.
    """

    def __init__(
        self,
        uri: str,
        fingerprint: str,
        tasks: Sequence[str],
        filesystem: fs.FileSystem | None = None,
        live: bool = False,
    ) -> None:
        self._files = DurableDirectory(uri, filesystem)
        header = {
            "format": FORMAT_VERSION,
            "benchmark": fingerprint,
            "tasks": list(tasks),
            "live": live,
        }
        self.records = self._read(header)
        if not self.records:
            self.append("header", header)

    @property
    def location(self) -> str:
        """Where the journal lies, without credentials."""
        return self._files.location

    def append(self, kind: str, payload: Mapping[str, Any]) -> Record:
        """Write the next record and return it as a later reader will see it.

        Raises `TypeError` for a payload that JSON cannot hold, `StorageError` when it cannot be
        written (the journal is then as before the call) or another process wrote this record.
        """
        sequence, at = len(self.records), datetime.now(timezone.utc)
        try:
            # Through JSON and back, so that the caller sees now what a reader sees after a restart.
            plain: dict[str, Any] = json.loads(json.dumps(payload))
        except (TypeError, ValueError) as error:
            raise TypeError(f"journal record '{kind}' is not JSON: {error}") from error
        body = {"sequence": sequence, "kind": kind, "at": at.isoformat(), "payload": plain}
        self._files.write(_name(sequence), _encode(body))
        record = Record(sequence, kind, at, plain)
        self.records.append(record)
        return record

    def _read(self, header: Mapping[str, Any]) -> list[Record]:
        names = sorted(name for name in self._files.names() if _RECORD_NAME.fullmatch(name))
        for expected, name in enumerate(names):
            if name != _name(expected):
                raise StorageError(
                    f"{self._files.path(_name(expected))}: record is missing (byte 0) though later "
                    f"ones exist; restore it or start under another run name"
                )
        with ThreadPoolExecutor(_READERS) as readers:
            contents = list(readers.map(self._files.read, names))
        records: list[Record] = []
        for sequence, (name, content) in enumerate(zip(names, contents, strict=True)):
            try:
                record = _decode(sequence, content)
            except _BrokenRecordError as error:
                if sequence == len(names) - 1:
                    self._files.discard_before_next_write(name)
                    break
                raise StorageError(
                    f"{self._files.path(name)}: record is broken at byte {error.offset} "
                    f"({error}); restore it or start under another run name"
                ) from error
            if sequence == 0:  # first of all: what follows may not be in our format
                self._check_header(record.payload, header)
            records.append(record)
        return records

    def _check_header(self, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        where = self._files.path(_name(0))
        if found.get("format") not in READABLE_VERSIONS:
            raise StorageError(
                f"{where}: journal has format {found.get('format')}, this version reads up to "
                f"{FORMAT_VERSION}; continue with the promptide that wrote it"
            )
        if found["benchmark"] != expected["benchmark"]:
            raise StorageError(
                f"{where}: journal is of another benchmark (fingerprint {found['benchmark']}, "
                f"now {expected['benchmark']}); use another run name or the same benchmark"
            )
        if found["tasks"] != expected["tasks"]:
            raise StorageError(
                f"{where}: journal has the tasks {found['tasks']}, now {expected['tasks']}; "
                f"use another run name or the same tasks in the same order"
            )
        if found.get("live", False) != expected["live"]:
            raise StorageError(
                f"{where}: journal has stream.live={str(not expected['live']).lower()}; use "
                f"another run name or the same setting"
            )


def begun_with(uri: str) -> list[str] | None:
    """The tasks that the journal at `uri` began with, in their order; None if it did not yet.

    Raises `StorageError` when storage fails or the header is broken.
    """
    files = DurableDirectory(uri)
    if _name(0) not in files.names():
        return None
    try:
        return list(_decode(0, files.read(_name(0))).payload["tasks"])
    except (_BrokenRecordError, KeyError) as error:
        raise StorageError(f"{files.path(_name(0))}: header is broken ({error})") from error


class _BrokenRecordError(Exception):
    """The bytes are not what was written; `offset` is where, 0 if only the checksum tells."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def _name(sequence: int) -> str:
    return f"{sequence:08d}.json"


def _encode(body: Mapping[str, Any]) -> bytes:
    checksum = zlib.crc32(_compact(body))
    return _compact({**body, "crc32": checksum})


def _decode(sequence: int, content: bytes) -> Record:
    try:
        body = json.loads(content.decode("ascii"))
    except UnicodeDecodeError as error:
        raise _BrokenRecordError("not text", error.start) from error
    except json.JSONDecodeError as error:
        raise _BrokenRecordError(f"not JSON: {error.msg}", error.pos) from error
    if not isinstance(body, dict) or body.get("sequence") != sequence:
        raise _BrokenRecordError(f"not record {sequence}", 0)
    # Comparing the bytes, not the values, also sees a change that JSON reads as the same value.
    unsigned = {key: value for key, value in body.items() if key != "crc32"}
    if content != _encode(unsigned):
        raise _BrokenRecordError("checksum differs", 0)
    at = datetime.fromisoformat(body["at"])
    return Record(sequence, body["kind"], at, body["payload"])


def _compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")

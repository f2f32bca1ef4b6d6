"""Broken rows of a data set: the first one ends the preparation, or all are quarantined.

A row is broken if its own annotation or image cannot be used. What concerns a whole file (it is
missing, it is not JSON, two entries share an id) is no row's fault and always ends the preparation.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

import pyarrow as pa

from system.errors import DEFAULT_KIND, DataError, OnError
from system.storage.data_directory import SETTING
from system.storage.files import Folder
from system.uris import join

QUARANTINE_NAME = "quarantine.parquet"

_FIRST_NAMES = 3
_COLUMNS = ("split", "name", "kind", "reason")
_SCHEMA = pa.schema([pa.field(column, pa.string(), nullable=False) for column in _COLUMNS])


@dataclass(frozen=True, slots=True)
class Fault:
    """A quarantined row: its split and name, the reason, and the reason's short name."""

    split: str
    name: str
    reason: str
    kind: str


class Faults:
    """Broken rows: under "stop" the first one ends the preparation, else each is quarantined.

    `found` lists them in the order in which they were found; threads may add to it.
    """

    def __init__(self, on_error: OnError) -> None:
        self.on_error = on_error
        self.found: list[Fault] = []

    def row(self, split: str, name: str) -> "_Guard":
        """Guard the work on one row, in a `with` block.

        A DataError inside is raised under "stop"; under "quarantine" it is recorded and the block
        ends, so what follows it must not rely on its result.
        """
        return _Guard(self, split, name)


class _Guard:
    """Context of the work on one row."""

    def __init__(self, faults: Faults, split: str, name: str) -> None:
        self._faults, self._split, self._name = faults, split, name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, DataError) or self._faults.on_error == "stop":
            return False
        fault = Fault(self._split, _text(self._name), _text(str(error)), _kind(error))
        self._faults.found.append(fault)
        return True


def summarise(faults: Iterable[Fault]) -> dict[str, dict[str, object]]:
    """Count faults by their kind: {kind: {"rows": count, "first": a few rows' names}}."""
    names: dict[str, list[str]] = {}
    for fault in faults:
        names.setdefault(fault.kind, []).append(fault.name)
    return {
        kind: {"rows": len(of_kind), "first": of_kind[:_FIRST_NAMES]}
        for kind, of_kind in sorted(names.items())
    }


def put_aside(root: str, faults: Sequence[Fault]) -> str:
    """Say how many rows were quarantined, of which kinds, and where they are listed."""
    kinds = Counter(fault.kind for fault in faults)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    rows = "1 row was" if len(faults) == 1 else f"{len(faults):,} rows were"
    return f"{rows} put aside ({counts}; see {join(root, QUARANTINE_NAME)})"


def write_quarantine(root: str, faults: Iterable[Fault]) -> None:
    """Write `quarantine.parquet` under `root` (path or URI), one row per fault, or no file.

    Columns: split, name, kind, reason (strings).
    Raises: StorageError if it cannot be written.
    """
    rows = [{column: getattr(fault, column) for column in _COLUMNS} for fault in faults]
    folder = Folder.of(root, SETTING)
    if rows:
        folder.write_table(QUARANTINE_NAME, pa.Table.from_pylist(rows, schema=_SCHEMA))
    else:
        folder.delete(QUARANTINE_NAME)


def _kind(error: DataError) -> str:
    """Find the error's own kind, or that of the one it was raised from."""
    while error.kind == DEFAULT_KIND and isinstance(error.__cause__, DataError):
        error = error.__cause__
    return error.kind


def _text(text: str) -> str:
    """Make a text storable: a file name or a JSON string may hold half a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

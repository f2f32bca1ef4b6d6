"""The record of every split that a worker opened."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa

ACCESS_LOG_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("opened_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("consumer", pa.string(), nullable=False),
        pa.field("current_task", pa.string()),  # null: the consumer held no lease at that moment
    ]
)

_EPOCH, _MICROSECOND = datetime.fromtimestamp(0, timezone.utc), timedelta(microseconds=1)
_IDS_KEPT = 1000


class AccessLog:
    """Opens in the order they were granted, each known by the id its caller gave it."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in ACCESS_LOG_SCHEMA.names}
        self._ids: dict[str, None] = {}  # in order

    def __len__(self) -> int:
        return len(self._columns["task"])

    def __contains__(self, open_id: str) -> bool:
        return open_id in self._ids

    def add(self, open_id: str, opened_at: datetime, entry: Mapping[str, Any]) -> None:
        """Append one open; `entry` has every column of the schema except `opened_at`."""
        self._ids[open_id] = None
        for name, values in self._columns.items():
            values.append(opened_at if name == "opened_at" else entry[name])

    def state(self) -> dict[str, Any]:
        """What `restore` takes, for JSON: columns, times in microseconds since 1970.

        Only the newest ids are kept: a call is repeated at once or not at all.
        """
        times = [(at - _EPOCH) // _MICROSECOND for at in self._columns["opened_at"]]
        return {
            "columns": {**self._columns, "opened_at": times},
            "ids": list(self._ids)[-_IDS_KEPT:],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Hold what the log held when `state` was taken."""
        times = [_EPOCH + at * _MICROSECOND for at in state["columns"]["opened_at"]]
        self._columns = {**state["columns"], "opened_at": times}
        self._ids = dict.fromkeys(state["ids"])

    def table(self) -> pa.Table:
        """Return all opens so far as a table of `ACCESS_LOG_SCHEMA`, oldest first."""
        return pa.table(self._columns, schema=ACCESS_LOG_SCHEMA)

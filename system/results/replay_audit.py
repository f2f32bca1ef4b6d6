"""Finds replay in an access log, from the log alone: no refusal made during the run is trusted.

A consumer's *frontier* is the furthest task that has been its current one so far. Reading training
rows of a task behind the frontier is replay; so is reading them of the frontier's own task once the
consumer has no current task any more, since that task is then committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from system.errors import DataError

if TYPE_CHECKING:  # an audit needs nothing of pyarrow but the table that it gets
    import pyarrow as pa

_COLUMNS = ("task", "split", "rows", "consumer", "current_task")


def replayed_opens(access_log: pa.Table, tasks: Sequence[str]) -> pa.Table:
    """Return the rows of `access_log` (oldest first) that read a past task's training split.

    `tasks` is the stream's order. Raises `DataError` when a column is missing or a task unknown.
    """
    missing = [name for name in _COLUMNS if name not in access_log.column_names]
    if missing:
        raise DataError(f"access log: columns {missing} are missing; was it written by this run?")
    position = {task: index for index, task in enumerate(tasks)}
    frontier: dict[str, int] = {}
    offending: list[int] = []
    for row, entry in enumerate(access_log.select(_COLUMNS).to_pylist()):
        named = [name for name in (entry["task"], entry["current_task"]) if name is not None]
        unknown = [name for name in named if name not in position]
        if unknown or entry["task"] is None:
            raise DataError(f"access log row {row}: task {unknown or None} is not in the stream")
        consumer, current = entry["consumer"], entry["current_task"]
        if current is not None:
            frontier[consumer] = max(frontier.get(consumer, -1), position[current])
        reached = frontier.get(consumer, -1)
        behind = position[entry["task"]] - reached
        if entry["split"] == "train" and (behind < 0 or (behind == 0 and current is None)):
            offending.append(row)
    return access_log.take(offending) if offending else access_log.slice(0, 0)


def replayed_rows(access_log: pa.Table, tasks: Sequence[str]) -> int:
    """Return how many rows of past tasks' training splits were read: 0 for a replay-free run.

    Arguments and errors as for `replayed_opens`.
    """
    return sum(replayed_opens(access_log, tasks)["rows"].to_pylist())

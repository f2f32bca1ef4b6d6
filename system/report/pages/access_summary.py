"""Counts of the access log: the evidence that no past task's training data was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from system.results.replay_audit import replayed_opens


@dataclass(frozen=True)
class Opens:
    """Number of openings and of the rows read by them."""

    opens: int = 0
    rows: int = 0

    def plus(self, rows: int) -> "Opens":
        """The sum with one more opening of `rows` rows."""
        return Opens(self.opens + 1, self.rows + rows)


@dataclass(frozen=True)
class AccessSummary:
    """Openings by split and by (task, split), and those that were replay."""

    splits: Mapping[str, Opens]
    by_task: Mapping[str, Mapping[str, Opens]]
    replayed: Opens
    replayed_by_task: Mapping[str, Opens]
    first: datetime | None
    last: datetime | None


def summarise_access(log: pa.Table, tasks: Sequence[str]) -> AccessSummary:
    """Count the openings of a table in the schema of access_log.parquet, oldest first.

    Replay is counted anew from the log, whatever metrics.json claims.

    Args:
        log: the access log.
        tasks: names in stream order; without them, the order in which the log makes tasks current.
    """
    rows = log.to_pylist()
    named = [row["current_task"] for row in rows if row["current_task"] is not None]
    order = tuple(dict.fromkeys((*tasks, *named, *(row["task"] for row in rows))))
    splits: dict[str, Opens] = {}
    by_task: dict[str, dict[str, Opens]] = {task: {} for task in order}
    for row in rows:
        split, of_task = row["split"], by_task[row["task"]]
        splits[split] = splits.get(split, Opens()).plus(row["rows"])
        of_task[split] = of_task.get(split, Opens()).plus(row["rows"])
    replayed = Opens()
    replayed_by_task: dict[str, Opens] = {}
    for row in replayed_opens(log, order).to_pylist():
        task = row["task"]
        replayed = replayed.plus(row["rows"])
        replayed_by_task[task] = replayed_by_task.get(task, Opens()).plus(row["rows"])
    times = [row["opened_at"] for row in rows]
    rank = {"train": 0, "val": 1, "test": 2}
    return AccessSummary(
        splits={name: splits[name] for name in sorted(splits, key=lambda s: (rank.get(s, 3), s))},
        by_task=by_task,
        replayed=replayed,
        replayed_by_task=replayed_by_task,
        first=min(times, default=None),
        last=max(times, default=None),
    )

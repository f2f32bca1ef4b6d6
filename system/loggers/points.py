"""The points that loggers get: curves by epoch and by task, and the final metrics."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from typing_extensions import override

from system.results.accuracy_matrix import ZERO_SHOT, MatrixBlock
from system.results.committed_rows import CommittedRows
from system.storage.run_directory import MODEL_LOG

#: Sections of metrics.json that hold one value per metric.
SECTIONS = (
    *("average", "stream_average", "transfer"),
    *("forgetting", "backward_transfer", "forward_transfer"),
    *("zero_shot", "oracle"),
)
NUMBERS = ("trainable_parameters", "replayed_rows")
COUNTS = ("epoch", "steps")  # what says where a row of a model's log stands


@dataclass(frozen=True)
class Point:
    """One value of one curve.

    `step` counts epochs for train/ and learned tasks for the others; of a model, which is learned
    whole, it is 1 there.
    """

    name: str
    value: float
    step: int


class Curves(Protocol):
    """The points of one kind of run."""

    def of(self, row: Mapping[str, Any], index: int) -> Iterator[Point]:
        """Points of the `index`-th thing that was learned: a task, or an epoch of a model."""
        ...

    def rows(self, metrics: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The rows that metrics.json holds, for a run whose rows nobody got before."""
        ...

    def final(self, metrics: Mapping[str, Any]) -> Iterator[Point]:
        """Points of metrics.json."""
        ...


class StreamCurves(Curves):
    """Each task is a batch; a row is what was committed for it.

    `epochs` is how many each task has. Rows come in the order of the tasks, from the first one on:
    a commit holds only what differs from the one before.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._rows = CommittedRows()

    @override
    def of(self, row: Mapping[str, Any], index: int) -> Iterator[Point]:
        if index == 0:
            self._rows = CommittedRows()
        return task_points(row, self._rows.unpack(row["rows"]), index, self.epochs)

    @override
    def rows(self, metrics: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """None: they are in the stream's journal."""
        return ()

    @override
    def final(self, metrics: Mapping[str, Any]) -> Iterator[Point]:
        return final_points(metrics)


@dataclass(frozen=True)
class ModelCurves(Curves):
    """Each epoch is a batch; a row is one of the training's log."""

    metrics: Sequence[str]  # keys of metrics.json that are logged

    @override
    def of(self, row: Mapping[str, Any], index: int) -> Iterator[Point]:
        return epoch_points(row)

    @override
    def rows(self, metrics: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The training's log."""
        log: Sequence[Mapping[str, Any]] = metrics[MODEL_LOG]
        return log

    @override
    def final(self, metrics: Mapping[str, Any]) -> Iterator[Point]:
        return metric_points(metrics, self.metrics)


def task_points(
    payload: Mapping[str, Any], blocks: Sequence[MatrixBlock], index: int, epochs: int
) -> Iterator[Point]:
    """The curves of one task, from what was committed for it, its matrix rows as `blocks`.

    `epochs` is how many a task has. Values are means over the tasks learned so far; one that is
    undefined for any of them has no point. Those of held-out benchmarks are their own.
    """
    for row in payload["log"]:
        step = index * epochs + int(row["epoch"]) + 1
        for name, value in row.items():
            if name.startswith("loss") or name == "images_per_second":
                yield Point(f"train/{name}", float(value), step)
    for trained, step in ((ZERO_SHOT, 0), (index, index + 1)):
        for block in blocks:
            mean = _mean(block, index)
            if block.trained_index == trained and mean is not None:
                yield Point(f"eval/{block.metric}", mean, step)
    for row in payload.get("held_out", ()):
        if row["value"] is not None:
            name = f"held_out/{row['held_out']}/{row['metric']}"
            yield Point(name, float(row["value"]), int(row["trained_index"]) + 1)


def final_points(metrics: Mapping[str, Any]) -> Iterator[Point]:
    """The metrics of metrics.json."""
    last = len(metrics["tasks"])
    for section in SECTIONS:
        found = metrics.get(section, {})  # that of an earlier version has not all of them
        for metric, value in found.get("average", found).items():
            if value is not None:
                yield Point(f"final/{section}_{metric}", float(value), last)
    for name in NUMBERS:
        yield Point(f"final/{name}", float(metrics[name]), last)
    yield Point("final/seconds", float(sum(metrics["wall_seconds"].values())), last)


def epoch_points(row: Mapping[str, float]) -> Iterator[Point]:
    """The curves of one epoch of a model's training, from its row of the log."""
    for name, value in row.items():
        if name not in COUNTS:
            yield Point(f"train/{name}", float(value), int(row["epoch"]) + 1)


def metric_points(metrics: Mapping[str, Any], keys: Sequence[str]) -> Iterator[Point]:
    """Figures of a model's metrics.json; of a key that is a section, all numbers right in it."""
    for key in keys:
        value = metrics[key]
        named = (
            {f"{key}_{name}": found for name, found in value.items()}
            if isinstance(value, Mapping)
            else {key: value}
        )
        for name, found in named.items():
            if isinstance(found, int | float):
                yield Point(f"final/{name}", float(found), 1)


def _mean(block: MatrixBlock, upto: int) -> float | None:
    """The mean over the tasks so far, of the frozen model over all; None where it is undefined."""
    seen = block.values
    if block.trained_index != ZERO_SHOT:
        seen = seen[block.evaluated <= upto]
    values = seen.tolist()
    mean = sum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None

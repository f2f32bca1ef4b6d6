"""ranks.parquet as the intervals read it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from system.results.intervals import (
    LEVEL,
    RESAMPLES,
    SEED,
    Floats,
    Queries,
    interval,
    resampled_averages,
)
from system.results.metrics import GROUNDING, RETRIEVAL
from system.results.stream_metrics import COMBINED, CombinedMetric

METRICS = {metric.name: metric for metric in (*RETRIEVAL, *GROUNDING)}
PHASES = {"average": "after", "zero_shot": "zero_shot"}  # section of metrics.json -> phase
#: What is drawn for a resampled test set.
UNIT = "images of each task, with all their queries"


def queries_of(table: pa.Table, phase: str) -> Queries:
    """The queries of one phase, in an order that is the same for all runs on the same splits."""
    table = table.filter(pc.equal(table["phase"], phase))
    named = ("direction", "task", "split", "query")
    table = table.sort_by([(name, "ascending") for name in named])

    def joined(*names: str) -> Any:
        parts = [table[name].cast(pa.string()) for name in names]
        return pc.binary_join_element_wise(*parts, "/").to_numpy(zero_copy_only=False).astype(str)

    ranks = [
        name
        for name in table.column_names
        if name.startswith("rank") or name.startswith("average_precision")
    ]
    return Queries(
        keys=joined(*named),
        directions=joined("direction"),
        tasks=table["task_index"].to_numpy().astype(np.int64),
        units=joined("task", "split", "row"),
        columns={name: table[name].cast(pa.float64()).to_numpy() for name in ranks},
    )


def run_intervals(
    table: pa.Table, averages: Mapping[str, Mapping[str, float | None]]
) -> dict[str, Any]:
    """The intervals of a run's averages, zero-shot averages and gains, by metric.

    `averages` are those of metrics.json: what has no value has no interval either, null. A gain is
    a paired difference: both of its sides are of the same resampled test sets.
    """
    names = [name for name in averages["average"] if name in METRICS]
    metrics = [METRICS[name] for name in names]
    drawn, known = {}, {}
    for section, phase in PHASES.items():
        queries = queries_of(table, phase)
        values = queries.values(metrics)
        drawn[section] = resampled_averages(values, queries.tasks, queries.units)
        known[section] = {name for name in names if averages[section].get(name) is not None}
    drawn["gain"] = drawn["average"] - drawn["zero_shot"]
    known["gain"] = known["average"] & known["zero_shot"]

    def intervals(section: str) -> dict[str, list[float] | None]:
        of = dict(zip(names, drawn[section].T, strict=True))
        found = {name: _pair(of[name]) if name in known[section] else None for name in names}
        six = [name for name in CombinedMetric.RECALLS if name in names]
        if len(six) == len(CombinedMetric.RECALLS):
            rows = np.stack([of[name] for name in six], axis=1).tolist()
            for metric in COMBINED:
                combined = np.array([metric.compute(row) for row in rows])
                found[metric.name] = _pair(combined) if known[section] >= set(six) else None
        return found

    sections = {section: intervals(section) for section in drawn}
    return {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "drawn": UNIT, **sections}


def _pair(averages: Floats) -> list[float]:
    found = interval(averages)
    return [found.low, found.high]

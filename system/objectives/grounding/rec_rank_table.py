"""Ranks of all test expressions of a grounding stream, as ranks.parquet has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from system.data.shards.loading import read_image_ids
from system.results.metrics import rank_column
from system.results.rec_recalls import OVERLAPS
from system.storage.run_directory import RANK_COLUMNS

if TYPE_CHECKING:
    from system.objectives.grounding.grounding_evaluation import EvaluatedSplit

#: The rank of the first box that hits, from 1, by each overlap; null: none hits.
SCHEMA = pa.schema(
    [*RANK_COLUMNS, *((rank_column(*overlap), pa.int32()) for overlap in OVERLAPS[1:])]
)


def rec_rank_table(evaluated: Iterable[EvaluatedSplit]) -> pa.Table:
    """Each expression's ranks in the leading split, by the frozen grounder and as learned.

    A query's number is its place in `read_expressions` of its task's split. A table of `SCHEMA`.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for one in evaluated:
        chosen = one.chosen
        ids = read_image_ids(chosen.handle)
        rows, count = [expression.row for expression in chosen.expressions], len(chosen)
        for phase, found in (("zero_shot", one.plain), ("after", one.prompted)):
            columns["phase"] += [phase] * count
            columns["direction"] += ["rec"] * count
            columns["task_index"] += [one.index] * count
            columns["task"] += [chosen.handle.task] * count
            columns["split"] += [chosen.handle.split] * count
            columns["query"] += list(chosen.samples)
            columns["row"] += rows
            columns["image_id"] += [ids[row] for row in rows]
            columns["text"] += [expression.text for expression in chosen.expressions]
            for overlap, ranks in zip(OVERLAPS, found.ranks.T.tolist(), strict=True):
                columns[rank_column(*overlap)] += [None if r < 0 else r + 1 for r in ranks]
    return pa.table(columns, schema=SCHEMA)

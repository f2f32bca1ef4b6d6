"""Ranks of all test queries of a retrieval stream, as ranks.parquet has them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from system.data.shards.loading import read_image_ids
from system.results.metrics import MAP_DEPTH
from system.storage.run_directory import RANK_COLUMNS

if TYPE_CHECKING:
    from system.objectives.retrieval.retrieval_evaluation import Phase, StreamEvaluation

SCHEMA = pa.schema(
    [
        *RANK_COLUMNS,
        (f"average_precision_{MAP_DEPTH}", pa.float64()),  # in 0..1, over all right candidates
        ("right", pa.int32()),  # candidates that are right for the query
        ("gallery", pa.int32()),  # candidates that it searches
    ]
)


def retrieval_rank_table(evaluation: "StreamEvaluation", tasks: Sequence[str]) -> pa.Table:
    """Each text's and each captioned image's rank, by the frozen backbone and as learned.

    A text query's number is that of the caption in its task's split, an image query's that of the
    image. A table of `SCHEMA`; both phases search the gallery that the last task leaves.
    """
    tests = evaluation.tests
    owner, rows = tests.image_of_text.tolist(), tests.row_in_task.tolist()
    texts_of = torch.bincount(tests.tasks_of("text"), minlength=len(tasks))
    first_text = (texts_of.cumsum(0) - texts_of).tolist()  # where each task's texts begin
    ids = [read_image_ids(handle) for handle in tests.handles]
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    phases: tuple[tuple[str, Phase], ...] = (("zero_shot", "plain"), ("after", "prompted"))
    for phase, features in phases:
        for one in evaluation.ranks(features):
            texts = one.direction == "t2i"
            places = one.queries.tolist()
            own = [rows[owner[place] if texts else place] for place in places]
            count, task = len(places), one.task
            columns["phase"] += [phase] * count
            columns["direction"] += [one.direction] * count
            columns["task_index"] += [task] * count
            columns["task"] += [tasks[task]] * count
            columns["split"] += [tests.handles[task].split] * count
            columns["query"] += [place - first_text[task] for place in places] if texts else own
            columns["row"] += own
            columns["image_id"] += [ids[task][row] for row in own]
            columns["text"] += [tests.captions[place] if texts else None for place in places]
            columns["rank"] += one.ranks.tolist()
            columns[f"average_precision_{MAP_DEPTH}"] += one.precision.tolist()
            columns["right"] += one.right.tolist()
            columns["gallery"] += [one.gallery] * count
    return pa.table(columns, schema=SCHEMA)

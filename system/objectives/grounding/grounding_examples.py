"""Expressions with the boxes found before and after learning, for the report."""

import math
from typing import Any

import pyarrow as pa
from torch import Tensor

from system.data.shards.loading import read_images
from system.data.shards.split_objects import subsample
from system.objectives.grounding.grounding_evaluation import GroundingEvaluation
from system.objectives.objective import OpenTest
from system.objectives.retrieval.retrieval_examples import QUERIES_PER_TASK

BOX = pa.list_(pa.float64())  # left, top, right, bottom in shares; null: none was found

SCHEMA = pa.schema(
    [
        ("evaluated_index", pa.int32()),
        ("task", pa.string()),
        ("query_index", pa.int32()),
        ("query", pa.string()),
        ("true_box", BOX),
        ("before_box", BOX),
        ("after_box", BOX),
        ("image", pa.binary()),
    ]
)


def grounding_examples(evaluation: GroundingEvaluation, open_test: OpenTest) -> pa.Table:
    """The best box for a few expressions of each task, by the frozen grounder and as learned.

    They are spread evenly over the task's test split: chosen by place, not by result.
    """
    records: list[dict[str, Any]] = []
    opened = [part for task in range(evaluation.tasks) for part in open_test(task).members]
    for judged, handle in zip(evaluation.judged, opened, strict=True):
        expressions = judged.chosen.expressions
        places = subsample(len(expressions), QUERIES_PER_TASK)
        images = read_images(handle, [expressions[place].row for place in places])
        for number, (place, image) in enumerate(zip(places, images, strict=True)):
            expression = expressions[place]
            records.append(
                {
                    "evaluated_index": judged.index,
                    "task": handle.task,
                    "query_index": number,
                    "query": expression.text,
                    "true_box": list(expression.box),
                    "before_box": _box(judged.plain.best[place]),
                    "after_box": _box(judged.prompted.best[place]),
                    "image": image.image,
                }
            )
    return pa.Table.from_pylist(records, schema=SCHEMA)


def _box(found: Tensor) -> list[float] | None:
    values: list[float] = found.tolist()
    return None if any(map(math.isnan, values)) else values

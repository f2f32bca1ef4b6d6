"""What only the end of a stream can tell: figures with the true task given, a live one's matrix."""

import math
from dataclasses import asdict
from typing import Any

from system.methods.sharing import StreamMethod
from system.objectives.objective import Evaluation
from system.results.accuracy_matrix import MatrixRow
from system.stream.router import Router


def final_figures(
    evaluation: Evaluation, method: StreamMethod, router: Router | None, *, live: bool
) -> dict[str, Any]:
    """The part of outcome.json that the evaluation and the method know.

    "matrix" holds all rows of a `live` stream over all its tasks, as if they had been given at the
    start. It is None where the rows that were committed are so already, and for a method that keeps
    no older state: its rows are those of the tasks that were learned at the time.
    """
    last = evaluation.tasks - 1
    matrix = None
    if live and (method.needs_router or method.trains_on == "nothing"):
        matrix = evaluation.all_rows(method, router)
    else:
        # Encodes nothing new, unless this worker group started after the last commit.
        evaluation.after_task(last, method, router)
    oracle = evaluation.oracle(last, method)
    return {
        "evaluated": evaluation.described(),
        "routed": [] if router is None else list(router.modalities),
        "matrix": matrix and [plain_row(row) for row in matrix],
        "oracle": [plain_row(row) for row in oracle],
        "similarity_source": method.similarity_source,
        "replays": method.trains_on == "all",
        "trainable_parameters": method.parameters_in_all(),
        "trainable_parameters_per_task": method.parameters_per_task(),
    }


def plain_row(row: MatrixRow) -> dict[str, Any]:
    """A matrix row as JSON can hold it: an undefined value is null."""
    values = asdict(row)
    return values | {"value": None if math.isnan(row.value) else row.value}

"""Results in the form of LPI's released code: `res/<date>.json`.

{task trained: {"mscoco": {"i2t": {task: [R@1, R@5, R@10]}, "t2i": {...}}}}, in percent: a row per
task in the order of training, in it the tasks seen so far. Tasks are keyed by their names, or by
the numbers of their categories; which of the two the release writes was not seen, so both are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from system.errors import DataError
from system.results.accuracy_matrix import AccuracyMatrix, MatrixRow
from system.results.recall import ALWAYS, KS

DATA_SET = "mscoco"
DIRECTIONS = ("i2t", "t2i")
_KEYS = [str(k) for k in KS]
_QUERIES = 1  # at least: a file does not say how many


def to_res(matrix: AccuracyMatrix, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The rows of a matrix over the tasks seen so far; `keys` names tasks otherwise.

    A recall that cannot fail, which is undefined here, is the 100 that their formula gives.
    Raises DataError for one that is undefined otherwise, or that was not evaluated.
    """
    keys = {task: task for task in matrix.tasks} if keys is None else keys
    last = max(matrix.trained, default=-1)

    def value(direction: str, k: int, trained: int, evaluated: int) -> float:
        entry = f"{direction}_r{k}", trained, evaluated
        where = (
            f"{direction} R@{k} on task {matrix.tasks[evaluated]!r} after {matrix.tasks[trained]!r}"
        )
        if not matrix.holds(*entry):
            raise DataError(f"{where} was not evaluated; a res file has retrieval's recalls alone")
        found, reason = matrix.value(*entry), matrix.reason(*entry)
        if not math.isnan(found):
            return found
        if reason is not None and reason.endswith(ALWAYS):
            return 100.0
        raise DataError(f"{where} is undefined: {reason}")

    return {
        keys[matrix.tasks[trained]]: {
            DATA_SET: {
                direction: {
                    keys[matrix.tasks[seen]]: [value(direction, k, trained, seen) for k in KS]
                    for seen in range(trained + 1)
                }
                for direction in DIRECTIONS
            }
        }
        for trained in range(last + 1)
    }


def from_res(content: Any, where: str, names: Mapping[str, str] | None = None) -> AccuracyMatrix:
    """The matrix of a res file's content, without zero-shot row; each entry of it has one query.

    `where` is the file, for errors; `names` are those of tasks that are keyed by something else.
    The order of training is that of the file. Raises DataError naming the key that is wrong.
    """
    names = names or {}
    rows: list[MatrixRow] = []
    trained_keys = [str(key) for key in _mapping(content, where)]
    tasks = [names.get(key, key) for key in trained_keys]
    for trained, key in enumerate(trained_keys):
        sets = _mapping(content[key], f"{where}: {key}")
        if len(sets) != 1:
            raise DataError(f"{where}: {key} holds {len(sets)} data sets, {list(sets)}, not one")
        ((data_set, directions),) = sets.items()
        place = f"{where}: {key}.{data_set}"
        for direction in DIRECTIONS:
            if direction not in _mapping(directions, place):
                raise DataError(f"{place} has no {direction!r}")
            for evaluated, k, value in _recalls(directions[direction], f"{place}.{direction}"):
                name = names.get(evaluated, evaluated)
                if name not in tasks:
                    tasks.append(name)  # seen before it is trained, or the run was cut short
                rows.append(
                    MatrixRow(trained, tasks.index(name), f"{direction}_r{k}", value, _QUERIES)
                )
    if not rows:
        raise DataError(f"{where} holds no recall")
    # The released code searches the tasks seen so far, and keeps nothing of the frozen model.
    return AccuracyMatrix(tasks, rows, before=())


def _recalls(per_task: Any, where: str) -> Iterator[tuple[str, int, float]]:
    for task, recalls in _mapping(per_task, where).items():
        if not isinstance(recalls, list) or len(recalls) != len(KS):
            raise DataError(f"{where}.{task} is {recalls!r}, not [R@{', R@'.join(_KEYS)}]")
        for k, value in zip(KS, recalls, strict=True):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= 100:
                raise DataError(f"{where}.{task}: R@{k} is {value!r}, not a percentage")
            yield str(task), k, float(value)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} is no object of a res file, but a {type(value).__name__}")
    return value

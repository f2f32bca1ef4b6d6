"""A loss weight that is the same for all tasks of a stream, or another one task by task."""

import math

#: A number for all tasks, or one for each in the stream's order: the last holds for those after it.
Weight = float | tuple[float, ...]


def weight_at(weight: Weight, task: int) -> float:
    """The weight at the stream's task of that index."""
    if isinstance(weight, tuple):
        return weight[min(task, len(weight) - 1)]
    return weight


def check_weight(name: str, weight: Weight) -> None:
    """Raises ValueError unless there is a weight, and each is a finite number of at least 0."""
    each = weight if isinstance(weight, tuple) else (weight,)
    if not each:
        raise ValueError(f"{name}=[] is empty; give a number, or one for each task")
    for number in each:
        if not (math.isfinite(number) and number >= 0):
            shown = list(weight) if isinstance(weight, tuple) else weight
            raise ValueError(f"{name}={shown} must be at least 0 and finite")

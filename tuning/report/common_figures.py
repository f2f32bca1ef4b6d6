"""What all settings of a sweep can be compared by, though some of them were stopped early."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CommonFigures:
    """Each setting's figure after as many tasks as every setting finished, by its label.

    A setting without any figure (it failed, or evaluates at the end alone) is left out.
    """

    tasks: int
    of_setting: Mapping[str, float]


def common_figures(trials: Sequence[Mapping[str, Any]]) -> CommonFigures:
    """From the rows of trials.parquet.

    Means are over the seeds that every setting was tried with: one seed may be harder than another.
    """
    begun = [trial for trial in trials if trial["figure_by_task"]]
    seeds: dict[str, set[int]] = {}
    for trial in begun:
        seeds.setdefault(trial["setting"], set()).add(trial["seed"])
    shared = set.intersection(*seeds.values()) if seeds else set()
    compared = [trial for trial in begun if trial["seed"] in shared]
    if not compared:
        return CommonFigures(0, {})
    tasks = min(len(trial["figure_by_task"]) for trial in compared)
    figures: dict[str, list[float | None]] = {}
    for trial in compared:
        figures.setdefault(trial["setting"], []).append(trial["figure_by_task"][tasks - 1])
    means = {
        setting: sum(known) / len(known)
        for setting, values in figures.items()
        if len(known := [value for value in values if value is not None]) == len(values)
    }
    return CommonFigures(tasks, means)

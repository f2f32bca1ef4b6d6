"""What a method on a grounder found, before and after training: a page, and lines of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from system.objectives.grounding.alignment.alignment_files import AlignmentResult
from system.report.formatting import DASH
from system.report.pages.page_shell import model_page
from system.report.pages.rec_pictures import Picture

COLUMNS = {"rec_r1": "R@1", "rec_r5": "R@5", "rec_r10": "R@10", "rec_ub": "any box"}
GIOU = "_giou"

Row = tuple[str, list[str]]


def rec_page(title: str, result: AlignmentResult, pictures: Sequence[Picture]) -> str:
    """A self-contained page: the main figures, a table a split, the example pictures."""
    return model_page(
        "rec.html",
        title,
        _identity(result),
        columns=list(COLUMNS.values()),
        splits={split: list(_rows(result, split)) for split in result.trained},
        undefined=result.undefined,
        pictures=pictures,
    )


def print_rec_table(result: AlignmentResult) -> Iterator[str]:
    """The main figures as lines of text."""
    for name, value in _identity(result).items():
        yield f"{name}: {value}"
    for split in result.trained:
        for metric, title in COLUMNS.items():
            before, after = (
                figures[split]["all"][metric] for figures in (result.zero_shot, result.trained)
            )
            yield f"{split} {title}: {_shown(before)} zero-shot, {_shown(after)} trained"


def _identity(result: AlignmentResult) -> dict[str, str]:
    return {
        "method": str(result.method["name"]),
        "grounder": result.grounder,
        "benchmark": result.benchmark,
        "trainable parameters": f"{result.trainable_parameters:,}",
        "epochs": f"{len(result.log)}, over {result.train_expressions:,} expressions",
        "seed": str(result.seed),
        "seconds of training": f"{result.wall_seconds.get('train', 0.0):.0f}",
    }


def _rows(result: AlignmentResult, split: str) -> Iterator[Row]:
    """The lines of a split's table: all, the mean of tasks, tasks, super-categories."""
    before, after = result.zero_shot[split], result.trained[split]
    yield "all expressions, IoU", _cells(before["all"], after["all"])
    yield "all expressions, GIoU", _cells(before["all"], after["all"], GIOU)
    yield "mean of the tasks", _cells(before["average"], after["average"])
    for task, found in after["per_task"].items():
        yield task, _cells(before["per_task"][task], found)
    groups = after["per_super_category"]
    for name, found in groups.items() if set(groups) != set(after["per_task"]) else ():
        yield f"super-category {name}", _cells(before["per_super_category"][name], found)


def _cells(before: Mapping[str, Any], after: Mapping[str, Any], suffix: str = "") -> list[str]:
    found = []
    for metric in COLUMNS:
        old, new = before[metric + suffix], after[metric + suffix]
        found.append(f"{_shown(old)} → {_shown(new)}")
    return found


def _shown(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"

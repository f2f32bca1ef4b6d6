"""The metrics that tasks are judged by: one `Metric` each, and its value on a task.

A metric that is added here gets its column in tables and its button on pages; what computes it
looks it up by its name.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Overlap = Literal["iou", "giou"]  # how a box's overlap with the object is measured
Of = Literal["recall", "average precision"]  # of a query's ranking

#: By what a metric takes the mean of: its formula for one query, and its source.
FORMULAS: dict[Of, tuple[str, str]] = {
    "recall": (
        "1 if the best right candidate is among the first k, else 0",
        "Hodosh et al., Framing image description as a ranking task, JAIR 2013",
    ),
    "average precision": (
        "sum over right candidates at ranks r ≤ k of (right ones among the first r) / r, divided "
        "by min(k, all right ones): with one right candidate 1 / r, or 0 beyond k",
        "Manning et al., Introduction to Information Retrieval, 2008, section 8.4; cut at k as "
        "mAP@R of Musgrave et al., arXiv 2003.08505, is cut at all right ones",
    ),
}


@dataclass(frozen=True)
class Metric:
    """A mean over queries in percent: a recall (is a right candidate among the first `k`?) or mAP.

    `k` None counts all candidates; a box is a right one from an `overlap` of `least` on; `of` is
    what is averaged over queries, by `FORMULAS`. Of each kind of stream the metrics that `lead` are
    shown first.
    """

    name: str  # in metrics.json, parquet columns and configs
    label: str
    k: int | None
    overlap: Overlap = "iou"
    lead: bool = False
    least: float = 0.5
    of: Of = "recall"

    @property
    def direction(self) -> str:
        """Who searches: a text images (t2i), an image texts (i2t), an expression boxes (rec)."""
        return self.name.partition("_")[0]

    @property
    def column(self) -> str:
        """The column of ranks.parquet that it is computed from."""
        if self.of == "average precision":
            return f"average_precision_{self.k}"
        return rank_column(self.overlap, self.least)


def rank_column(overlap: Overlap, least: float) -> str:
    """The column of ranks.parquet with ranks of boxes that hit from an overlap on."""
    by = "" if overlap == "iou" else f"_{overlap}"
    return f"rank{by}" if least == 0.5 else f"rank{by or '_iou'}{round(100 * least)}"


MAP_DEPTH = 10  # the k of mean average precision
_DIRECTIONS = (("t2i", "Text → image"), ("i2t", "Image → text"))
RETRIEVAL = (
    *(
        Metric(f"{direction}_r{k}", f"{label} R@{k}", k, lead=k == 1)
        for k in (1, 5, 10)
        for direction, label in _DIRECTIONS
    ),
    *(
        Metric(
            f"{direction}_map{MAP_DEPTH}",
            f"{label} mAP@{MAP_DEPTH}",
            MAP_DEPTH,
            of="average precision",
        )
        for direction, label in _DIRECTIONS
    ),
)
_BOXES: tuple[tuple[Overlap, str, str], ...] = (("iou", "", ""), ("giou", "_giou", ", by GIoU"))
#: Overlaps by which a first box is also counted, as detection does (MSCOCO's AP averages them).
STRICTER = (0.6, 0.7, 0.8, 0.9)
#: Counted by IoU, and by GIoU as the papers' released code does.
GROUNDING = tuple(
    Metric(f"rec_{name}{suffix}", label + by, k, overlap, lead=k == 1 and not suffix)
    for overlap, suffix, by in _BOXES
    for name, label, k in (
        ("r1", "Expression → box R@1", 1),
        ("r5", "Expression → box R@5", 5),
        ("r10", "Expression → box R@10", 10),
        ("ub", "Expression → any box", None),
    )
) + tuple(
    Metric(f"rec_r1_iou{round(100 * least)}", f"Expression → box R@1, IoU {least}", 1, least=least)
    for least in STRICTER
)


@dataclass(frozen=True)
class MetricValue:
    """A metric on one task: percent, or NaN with the reason why there is none.

    `queries` is the number of queries it is a mean over.
    """

    value: float
    queries: int
    reason: str | None = None


def routing_accuracy(
    routed: Tensor, true_task: Tensor, *, tasks: Iterable[int], learned: Sequence[int]
) -> dict[int, MetricValue]:
    """Percent of each task's samples that were routed to it.

    Args:
        routed: [B], from the router.
        true_task: [B].
        tasks: the tasks to report.
        learned: the tasks the router knew; the others are NaN, nothing could be routed to them.

    Returns:
        Task -> value.
    """
    hit = routed.cpu() == true_task.cpu()
    values = {}
    for task in tasks:
        mine = hit[true_task.cpu() == task]
        if task not in learned:
            values[task] = MetricValue(float("nan"), len(mine), "the task was not learned yet")
        elif not len(mine):
            values[task] = MetricValue(float("nan"), 0, "no queries")
        else:
            values[task] = MetricValue(100.0 * float(mine.double().mean()), len(mine))
    return values

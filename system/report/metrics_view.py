"""Look-ups in metrics.json that never turn an undefined value into a number."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from system.results.metrics import GROUNDING, RETRIEVAL

METRIC_LABELS = {metric.name: metric.label for metric in (*RETRIEVAL, *GROUNDING)}
#: Sections that metrics.json did not always have.
LATER = ("stream_average", "transfer", "backward_transfer", "rsum", "r_mean")
GIOU = "_giou"  # ends the names of metrics that count a hit by GIoU, not by IoU
#: The metrics of boxes that count a hit otherwise than by an IoU of 0.5.
OTHER_OVERLAPS = frozenset(m.name for m in GROUNDING if (m.overlap, m.least) != ("iou", 0.5))
# The metrics that lead, by the kind of stream; the first ones where nothing is known yet.
HEADLINES = tuple(
    tuple(metric.name for metric in kind if metric.lead) for kind in (RETRIEVAL, GROUNDING)
)


def headline_metrics(known: Collection[str]) -> tuple[str, ...]:
    """The leading ones of the metrics that a run has."""
    return next((metrics for metrics in HEADLINES if set(metrics) <= set(known)), HEADLINES[0])


def direction_of(metric: str) -> str:
    """The direction of a recall: `t2i` of `t2i_r1`."""
    return metric.partition("_")[0]


@dataclass(frozen=True)
class MetricsView:
    """The final metrics of a run; `content` is the parsed metrics.json, empty while running."""

    content: Mapping[str, object]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names in the order of the stream."""
        tasks = self.content.get("tasks")
        return tuple(str(task) for task in tasks) if isinstance(tasks, list) else ()

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that lead."""
        return headline_metrics(self.mapping("average"))

    def get(self, *path: str) -> object | None:
        """Value at a path of keys, None where any of them is absent."""
        value: object = self.content
        for key in path:
            if not isinstance(value, Mapping):
                return None
            value = value.get(key)
        return value

    def number(self, *path: str) -> float | None:
        """Finite number at a path of keys; None when it is null, NaN or absent."""
        value = self.get(*path)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if math.isfinite(value) else None

    def text(self, *path: str) -> str | None:
        """Scalar or names at a path of keys as text; None when null, absent or a container."""
        value = self.get(*path)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return ", ".join(value) or None
        return None if value is None or isinstance(value, Mapping | list) else str(value)

    def mapping(self, *path: str) -> dict[str, object]:
        """Object at a path of keys, empty when there is none."""
        value = self.get(*path)
        return dict(value) if isinstance(value, Mapping) else {}

    def interval(self, section: str, metric: str) -> tuple[float, float] | None:
        """The 95 % interval of an average, a zero-shot average or a gain; None where unknown."""
        ends = self.get("intervals", section, metric)
        return (float(ends[0]), float(ends[1])) if isinstance(ends, list) else None

    def queries(self, metric: str) -> str:
        """How many test queries a metric is over: '2,400 queries'; empty where unknown."""
        count = self.number("queries", metric)
        return "" if count is None else f"{count:,.0f} {'query' if count == 1 else 'queries'}"

    @property
    def attracting_tasks(self) -> tuple[tuple[str, str], ...] | None:
        """Pairs of tasks that the method pulled together; None where that is not known."""
        pairs = self.content.get("attracting_tasks")
        return tuple((one, other) for one, other in pairs) if isinstance(pairs, list) else None

    def repeated_texts(self) -> list[str]:
        """Lines on test texts that stand at several images: all tasks', then each one's.

        Empty where there are none, or texts are not searched.
        """
        where = ("evaluation", "repeated_texts")
        if not self.number(*where, "at_several_images"):
            return []
        tasks = [(*where, "per_task", task) for task in self.mapping(*where, "per_task")]
        some = [path for path in tasks if self.number(*path, "at_several_images")]
        lines = [f"{self._repeated(where)} on average over tasks"]
        return lines + [f"{path[-1]}: {self._repeated(path)}" for path in some if len(tasks) > 1]

    def _repeated(self, where: tuple[str, ...]) -> str:
        several, texts = (self.number(*where, key) for key in ("at_several_images", "texts"))
        t2i, i2t = (self.number(*where, "highest", key) for key in ("t2i_r1", "i2t_r1"))
        return (
            f"{several:.0f} of {texts:.0f} test texts stand at several images of the gallery: "
            f"recall at 1 cannot be above {t2i:.1f} (text to image) and {i2t:.1f} (image to text)"
        )

    @property
    def held_out(self) -> tuple[str, ...]:
        """Names of the held-out benchmarks."""
        return tuple(self.mapping("held_out"))

    def reason(self, *path: str) -> str:
        """Why the value at a path is undefined.

        `undefined` of metrics.json names a value by its dotted path, by a group of values
        ("forgetting") or by the metric alone ("t2i_r1"); the most specific entry counts.
        """
        undefined = self.mapping("undefined")
        prefixes = [".".join(path[:length]) for length in range(len(path), 0, -1)]
        for key in (*prefixes, path[-1]):
            if key in undefined:
                return str(undefined[key])
        if not self.content:
            return "the run has not written its final metrics yet"
        if path[0] in LATER and path[0] not in self.content:
            return "an earlier version wrote the run's metrics, and did not compute this one"
        return f"metrics.json gives no value for {'.'.join(path)}"

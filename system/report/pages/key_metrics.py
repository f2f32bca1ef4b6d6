"""The cards at the head of a run's page, and the table of averages beside the published ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from system.report.formatting import Footnotes, Formatted, bracketed
from system.report.metrics_view import METRIC_LABELS, MetricsView
from system.report.pages.access_summary import AccessSummary
from system.results.stream_metrics import (
    BACKWARD_TRANSFER,
    COMBINED,
    FORGETTING,
    FORWARD_TRANSFER,
    PUBLISHED_AVERAGE,
    PUBLISHED_FORGETTING,
    STREAM_AVERAGE,
    TRANSFER,
    StreamMetric,
)


@dataclass(frozen=True)
class Card:
    """One card: its label, its values by name, and a line below."""

    label: str
    values: tuple[tuple[str, Formatted], ...]
    note: str = ""
    tone: str = ""  # "good", "bad" or "" for neutral


@dataclass(frozen=True)
class AverageRow:
    """One metric of the table of averages; the fields are its columns from left to right."""

    label: str
    queries: str
    zero_shot: Formatted
    average: Formatted
    interval: str
    gain: Formatted
    gain_interval: str
    oracle: Formatted
    over_stream: tuple[Formatted, ...]  # by OVER_STREAM
    published: tuple[Formatted, ...]  # by PUBLISHED


#: The groups of columns behind the averages at the end.
OVER_STREAM = (STREAM_AVERAGE, TRANSFER, FORGETTING, BACKWARD_TRANSFER, FORWARD_TRANSFER)
PUBLISHED = (PUBLISHED_AVERAGE, PUBLISHED_FORGETTING)


def key_metrics(metrics: MetricsView, access: AccessSummary | None, notes: Footnotes) -> list[Card]:
    """The cards of the page, undefined values as footnotes in `notes`."""
    cards = [_average_card(metrics, metric, notes) for metric in metrics.headline]
    for group, label, note in (
        ("forgetting", "Forgetting", "best earlier minus last, in points; lower is better"),
        ("forward_transfer", "Forward transfer", "before learning, in points over zero-shot"),
    ):
        values = tuple(
            (
                METRIC_LABELS[metric],
                notes.points(metrics.number(group, metric), metrics.reason(group, metric)),
            )
            for metric in metrics.headline
        )
        cards.append(Card(label, values, note))
    total, each = (
        notes.count(metrics.number(key), metrics.reason(key))
        for key in ("trainable_parameters", "trainable_parameters_per_task")
    )
    cards.append(Card("Trainable parameters", (("whole stream", total), ("per task", each))))
    cards.append(_replay_card(metrics, access, notes))
    return cards


def _average_card(metrics: MetricsView, metric: str, notes: Footnotes) -> Card:
    """Average of the method against the frozen backbone, with the difference."""
    average, zero_shot, gain = _against_zero_shot(metrics, metric)
    reason = metrics.reason("average", metric)
    zero_reason = metrics.reason("zero_shot", "average", metric)
    return Card(
        METRIC_LABELS[metric],
        (
            ("average, %", notes.percent(average, reason)),
            ("zero-shot", notes.percent(zero_shot, zero_reason)),
            ("difference", notes.points(gain, reason if average is None else zero_reason)),
        ),
        _certainty(metrics, metric),
        tone="" if gain is None else ("good" if gain > 0 else "bad" if gain < 0 else ""),
    )


def _certainty(metrics: MetricsView, metric: str) -> str:
    """How many queries an average is over, and its intervals, in one line."""
    parts = [metrics.queries(metric)] if metrics.queries(metric) else []
    for section, name, sign in (("average", "average", False), ("gain", "difference", True)):
        if (ends := metrics.interval(section, metric)) is not None:
            parts.append(f"{name} {bracketed(ends, sign=sign)}")
    return ", ".join(parts) + (", 95 % intervals" if len(parts) > 1 else "")


def combined_lines(metrics: MetricsView) -> list[str]:
    """Rsum and the mean of the six recalls, where a run has them."""
    lines = []
    for metric in COMBINED:
        value, before = (metrics.number(metric.name, of) for of in ("average", "zero_shot"))
        if value is None:
            continue
        ends = bracketed(metrics.interval("average", metric.name))
        zero_shot = "" if before is None else f", zero-shot {before:.1f}"
        lines.append(f"{metric.label} {value:.1f}{ends and f' {ends}'}{zero_shot}")
    return lines


def _replay_card(metrics: MetricsView, access: AccessSummary | None, notes: Footnotes) -> Card:
    """Replayed rows as reported, contradicted in words when the access log counts otherwise."""
    reported = metrics.number("replayed_rows")
    rows = notes.count(reported, metrics.reason("replayed_rows"))
    values = (("rows of past training splits", rows),)
    if access is None:
        return Card("Replayed rows", values, "no access log to check against")
    counted = access.replayed.rows
    if reported is not None and counted != reported:
        return Card("Replayed rows", values, f"the access log counts {counted:,}", "bad")
    if counted and metrics.get("replays") is True:
        return Card("Replayed rows", values, "declared by the method: an upper bound")
    if counted:
        return Card("Replayed rows", values, "not replay-free", "bad")
    return Card("Replayed rows", values, "the access log below confirms it", "good")


def average_rows(metrics: MetricsView, notes: Footnotes) -> list[AverageRow]:
    """One row for each recall metric that metrics.json averages."""
    rows = []
    for metric, label in METRIC_LABELS.items():
        if metric not in metrics.mapping("average"):
            continue
        average, zero_shot, gain = _against_zero_shot(metrics, metric)
        reason = metrics.reason("average", metric)
        zero_reason = metrics.reason("zero_shot", "average", metric)

        def over(chosen: Sequence[StreamMetric], recall: str = metric) -> tuple[Formatted, ...]:
            return tuple(
                (notes.percent if one.unit == "percent" else notes.points)(
                    metrics.number(one.name, recall), metrics.reason(one.name, recall)
                )
                for one in chosen
            )

        rows.append(
            AverageRow(
                label=label,
                queries=metrics.queries(metric).partition(" ")[0],
                zero_shot=notes.percent(zero_shot, zero_reason),
                average=notes.percent(average, reason),
                interval=bracketed(metrics.interval("average", metric)),
                gain=notes.points(gain, reason if average is None else zero_reason),
                gain_interval=bracketed(metrics.interval("gain", metric), sign=True),
                oracle=notes.percent(
                    metrics.number("oracle", "average", metric),
                    metrics.reason("oracle", "average", metric),
                ),
                over_stream=over(OVER_STREAM),
                published=over(PUBLISHED),
            )
        )
    return rows


def _against_zero_shot(
    metrics: MetricsView, metric: str
) -> tuple[float | None, float | None, float | None]:
    """Average of the method, of the frozen backbone, and their difference where both exist."""
    average = metrics.number("average", metric)
    zero_shot = metrics.number("zero_shot", "average", metric)
    both = average is not None and zero_shot is not None
    return average, zero_shot, average - zero_shot if both else None  # type: ignore[operator]

"""A stream's tasks with their states, as a table on the terminal."""

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from system.report.formatting import duration
from system.report.terminal.stream_progress import Position

if TYPE_CHECKING:
    from system.stream.task_source import ConsumerStatus, StreamStatus


def print_stream(
    run: str, status: "StreamStatus", epochs: Mapping[str, int], source: str, console: Console
) -> None:
    """Print a stream's tasks with their states, and how many are pending.

    Args:
        run: the consumer whose states are printed; where it never registered, all are pending.
        status: of the stream.
        epochs: task -> epochs that it was trained, of the sealed ones.
        source: whether the run goes on, and so where the states come from, in words.
        console: where to.
    """
    consumer = status["consumers"].get(run)
    now = datetime.now(timezone.utc)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("task", "state", "since", "for"):
        table.add_column(header, no_wrap=True)
    table.add_column("epochs", justify="right", no_wrap=True)
    for name, state, since in _states(status, consumer):
        moment = since and datetime.fromisoformat(since)
        table.add_row(
            Text(name),
            state,
            f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "",
            duration((now - moment).total_seconds()) if moment else "",
            _epochs(name, consumer, epochs),
        )
    console.print(table)
    for line in _lines(run, status, consumer, source):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _states(
    status: "StreamStatus", consumer: "ConsumerStatus | None"
) -> list[tuple[str, str, str | None]]:
    if consumer is None:
        return [(task, "pending", None) for task in status["tasks"]]
    return [(task["task"], task["state"], task["since"]) for task in consumer["tasks"]]


def _epochs(task: str, consumer: "ConsumerStatus | None", epochs: Mapping[str, int]) -> str:
    if task in epochs:
        return str(epochs[task])
    progress = (consumer and consumer["progress"]) or {}
    if progress.get("task") == task and progress.get("epoch") is not None:
        return f"{progress['epoch'] + 1} of {progress['epochs']}"
    return ""


def _lines(
    run: str, status: "StreamStatus", consumer: "ConsumerStatus | None", source: str
) -> list[str]:
    pending = f"pending: {len(status['pending'])}"
    if status["open"]:
        pending += f" of at most {status['max_pending']}; open, it takes more tasks"
    else:
        pending += "; closed"
    lines = [pending, f"run {run} {source}: {status['journal']}"]
    if consumer is not None:
        lines.append(f"generation {consumer['generation']}, {consumer['ranks']} ranks")
        if consumer["progress"] is not None:
            position = Position.of(consumer["progress"])
            seconds = consumer["seconds_since_progress"] or 0.0
            lines.append(f"{position.name}: {position.place}; last progress {seconds:.0f} s ago")
    others = [name for name in status["consumers"] if name != run]
    if others:
        lines.append(f"other consumers: {', '.join(others)}")
    return lines

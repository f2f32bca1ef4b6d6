"""What a running stream shows, on a terminal and in a log file."""

import io
from typing import Any

from rich.console import Console

from system.report.terminal.stream_progress import StreamProgress
from system.stream.task_source import ConsumerStatus, TaskState

TASKS = ("food", "animal", "person")
SINCE = "2026-01-02T03:04:05+00:00"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def status(committed: int, index: int | None = None, **progress: Any) -> ConsumerStatus:
    states: list[TaskState] = [
        {"task": task, "index": i, "state": "pending", "since": SINCE}
        for i, task in enumerate(TASKS)
    ]
    place = {} if index is None else {"task": TASKS[index], "task_index": index, "tasks": 3}
    return {
        "generation": 1,
        "current_task": None if index is None else TASKS[index],
        "committed": committed,
        "ranks": 1,
        "tasks": states,
        "progress": {**place, **progress} if progress else None,
        "seconds_since_progress": 0.0,
    }


def training(committed: int, index: int, epoch: int, step: int, loss: float) -> ConsumerStatus:
    metrics = {"step": step, "steps": 5, "loss": loss, "images_per_second": 248.4}
    return status(committed, index, phase="train", epoch=epoch, epochs=2, **metrics)


def looks() -> list[ConsumerStatus]:
    """What a driver that looks twice a second sees of a first task."""
    return [
        status(0),
        status(0, 0, phase="features"),
        status(0, 0, phase="features"),
        training(0, 0, 0, 2, 1.5),
        training(0, 0, 0, 4, 1.25),
        training(0, 0, 1, 3, 1.0),
        training(0, 0, 1, 5, 0.75),
        training(0, 0, 1, 5, 0.75),
        status(0, 0, phase="evaluate"),
        status(1, 0, phase="evaluate"),
        status(1, 1, phase="features"),
    ]


def test_log_file_gets_one_plain_line_an_epoch_and_phase() -> None:
    """Else a log of a cluster job is full of control characters, or says nothing."""
    clock, file = Clock(), io.StringIO()
    with StreamProgress(Console(file=file, force_terminal=False), clock) as progress:
        for look in looks():
            progress.update(look)
            clock.now += 10
    assert file.getvalue().splitlines() == [
        "task 1/3 food: computing features",
        "task 1/3 food: epoch 1/2, loss 1.2500, 248 images/s",
        "task 1/3 food: epoch 2/2, loss 0.7500, 248 images/s",
        "task 1/3 food: evaluating",
        "task 1/3 food: learned, about 3 min 00 s left",
        "task 2/3 animal: computing features",
    ]


def test_each_task_has_its_line_however_short_it_was() -> None:
    """Several may end between two looks, and a log without one looks like a task left out."""
    file = io.StringIO()
    with StreamProgress(Console(file=file, force_terminal=False), Clock()) as progress:
        progress.update(status(0))
        progress.update(status(3))
    assert [line.partition(",")[0] for line in file.getvalue().splitlines()] == [
        "task 1/3 food: learned",
        "task 2/3 animal: learned",
        "task 3/3 person: learned",
    ]


def test_lines_are_flushed_at_once() -> None:
    """Else a followed log shows an epoch only when the run is over."""

    class Recorder(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed = len(self.getvalue())

    file = Recorder()
    with StreamProgress(Console(file=file, force_terminal=False), Clock()) as progress:
        progress.update(status(0, 0, phase="features"))
        assert file.flushed == len(file.getvalue()) > 0


def test_resumed_run_says_what_was_learned_before() -> None:
    """Else a user thinks the resumed run begins anew; nor may old tasks count for the time left."""
    clock, file = Clock(), io.StringIO()
    with StreamProgress(Console(file=file, force_terminal=False), clock) as progress:
        progress.update(status(2))
        clock.now += 60
        progress.update(status(2, 2, phase="features"))
    assert file.getvalue().splitlines() == [
        "2 of 3 tasks were learned before",
        "task 3/3 person: computing features",
    ]


def test_terminal_shows_task_epoch_loss_speed() -> None:
    """Else the user at a terminal does not see where the run stands."""
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    with StreamProgress(console, clock) as progress:
        for look in looks()[:6]:
            progress.update(look)
            clock.now += 10
        progress.progress.refresh()
    printed = file.getvalue()
    assert "task 1/3 food" in printed
    assert "epoch 2/2" in printed
    assert "loss 1.0000, 248 images/s" in printed
    assert "0 of 3 tasks learned" in printed


def test_task_name_with_markup_is_shown_as_it_is() -> None:
    """Else a task named like [red] vanishes or breaks the display."""
    file = io.StringIO()
    look = status(0, 0, phase="features")
    assert look["progress"] is not None
    look["progress"]["task"] = "[red]x[/y]"
    with StreamProgress(Console(file=file, force_terminal=False), Clock()) as progress:
        progress.update(look)
    assert "[red]x[/y]" in file.getvalue()


def test_a_phase_that_does_not_move_says_so_now_and_then() -> None:
    """Else a log file ends at the last epoch, and nobody knows that the run hangs."""
    clock, file = Clock(), io.StringIO()
    with StreamProgress(Console(file=file, force_terminal=False), clock) as progress:
        for seconds in (0, 30, 60, 90, 119, 120, 130, 1, 61):
            look = training(0, 0, 1, 3, 1.0)
            look["seconds_since_progress"] = seconds
            progress.update(look)
    place = "task 1/3 food: training, epoch 2/2, step 3/5, no progress for"
    expected = [f"{place} {since}" for since in ("1 min 00 s", "2 min 00 s", "1 min 01 s")]
    assert file.getvalue().splitlines() == expected


def test_a_run_that_waits_for_its_next_task_does_not_hang() -> None:
    file = io.StringIO()
    with StreamProgress(Console(file=file, force_terminal=False), Clock()) as progress:
        look = status(1, 1, phase="wait")
        look["seconds_since_progress"] = 1000
        progress.update(look)
    assert "no progress" not in file.getvalue()


def test_terminal_shows_step_and_seconds_since_progress() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=160, _environ={"TERM": "xterm"})
    with StreamProgress(console, Clock()) as progress:
        look = training(0, 0, 1, 3, 1.0)
        look["seconds_since_progress"] = 12.4
        progress.update(look)
        progress.progress.refresh()
    assert "step 3/5, loss 1.0000, 248 images/s, no progress for 12 s" in file.getvalue()

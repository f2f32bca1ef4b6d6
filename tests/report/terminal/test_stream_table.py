"""The table of a stream's tasks, while a run learns it and before any did."""

import io

from rich.console import Console

from system.report.terminal.stream_table import print_stream
from system.stream.task_source import ConsumerStatus, StreamStatus

SINCE = "2026-01-02T03:04:05+00:00"
RUNNING: ConsumerStatus = {
    "generation": 2,
    "current_task": "animal",
    "committed": 1,
    "ranks": 4,
    "tasks": [
        {"task": "food", "index": 0, "state": "sealed", "since": SINCE},
        {"task": "animal", "index": 1, "state": "leased", "since": SINCE},
    ],
    "progress": {
        "phase": "train",
        "task": "animal",
        "task_index": 1,
        "tasks": 3,
        "epoch": 0,
        "epochs": 3,
        "step": 4,
        "steps": 9,
    },
    "seconds_since_progress": 75.2,
}
STATUS: StreamStatus = {
    "journal": "runs/demo/stream",
    "benchmark": "demo",
    "fingerprint": "aa",
    "tasks": ["food", "animal", "[b]"],
    "open": True,
    "given": ["food", "animal", "[b]"],
    "pending": ["[b]"],
    "max_pending": 8,
    "consumers": {"demo": RUNNING, "other": RUNNING},
}


def printed(run: str, status: StreamStatus) -> list[list[str]]:
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=False)
    print_stream(run, status, {"food": 5}, "is running", console)
    return [line.split() for line in file.getvalue().splitlines()]


def test_each_task_has_its_state_and_its_epochs() -> None:
    lines = printed("demo", STATUS)
    food, animal = (next(line for line in lines if line[:1] == [t]) for t in ("food", "animal"))
    assert (food[1:4], food[-1]) == (["sealed", "2026-01-02", "03:04:05"], "5")
    assert (animal[1], animal[-3:]) == ("leased", ["1", "of", "3"])
    (pending,) = (" ".join(line) for line in lines if line[:1] == ["pending:"])
    assert pending == "pending: 1 of at most 8; open, it takes more tasks"
    assert ["generation", "2,", "4", "ranks"] in lines
    assert ["other", "consumers:", "other"] in lines


def test_it_says_where_the_run_stands_and_since_when() -> None:
    """Else a run that hangs looks like one that learns."""
    lines = [" ".join(line) for line in printed("demo", STATUS)]
    place = "task 2/3 animal: training, epoch 1/3, step 4/9; last progress 75 s ago"
    assert place in lines
    starting: ConsumerStatus = {**RUNNING, "progress": None, "seconds_since_progress": None}
    lines = [
        " ".join(line) for line in printed("demo", {**STATUS, "consumers": {"demo": starting}})
    ]
    assert not [line for line in lines if "last progress" in line]


def test_before_a_run_starts_all_tasks_are_pending() -> None:
    """A task's name is printed as it is, also with what the terminal takes for markup."""
    lines = printed("new", {**STATUS, "open": False})
    assert [line[0] for line in lines if line[1:2] == ["pending"]] == ["food", "animal", "[b]"]
    assert ["pending:", "1;", "closed"] in lines

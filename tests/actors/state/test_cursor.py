"""A consumer's place, as records change it and as a snapshot keeps it."""

import json
from datetime import datetime, timedelta, timezone

import pytest

from actors.state.cursor import Cursor
from system.data.shards.faults import Fault
from system.stream.task_source import NotLeasedError

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
FAULT = ["train", "image-3", "does not decode", "broken image"]
RECORDS: list[tuple[str, dict[str, object]]] = [
    ("register", {"generation": 1}),  # of a journal from before `replays`
    ("lease", {"task": "animals"}),
    ("open", {"rank": 1}),
    ("quarantine", {"task": "animals", "split": "train", "rows": [[3, *FAULT]]}),
    ("trained", {"task": "animals"}),
    ("commit", {"task": "animals", "payload": {"row": [0.5]}}),
    ("register", {"generation": 2, "replays": True}),
    ("lease", {"task": "food"}),
    ("open", {"rank": 0}),
]


@pytest.fixture
def cursor() -> Cursor:
    """One task committed, and another one leased by a second worker group; a record per minute."""
    cursor = Cursor()
    for minute, (kind, record) in enumerate(RECORDS):
        cursor.apply(kind, START + timedelta(minutes=minute), record)
    return cursor


def test_a_snapshot_keeps_all_that_the_journal_says(cursor: Cursor) -> None:
    assert cursor.quarantined == {("animals", "train"): {3: Fault(*FAULT)}}
    state = json.loads(json.dumps(cursor.state()))
    assert Cursor.of(state) == cursor
    assert Cursor.of({**state, "expired": "animals"}) == cursor  # of when leases ran out


def test_status_tells_state_and_time_of_each_task(cursor: Cursor) -> None:
    came = {"animals": START, "food": START, "travel": START - timedelta(days=1)}
    status = cursor.status(list(came), came, now=0.0)
    assert [(task["state"], task["since"]) for task in status["tasks"]] == [
        ("sealed", (START + timedelta(minutes=5)).isoformat()),
        ("leased", (START + timedelta(minutes=7)).isoformat()),
        ("pending", (START - timedelta(days=1)).isoformat()),
    ]
    assert (status["generation"], status["committed"], status["ranks"]) == (2, 1, 1)
    assert status["seconds_since_progress"] is None


def test_only_the_leased_task_is_held(cursor: Cursor) -> None:
    cursor.require_lease("run", "food", "committed")
    with pytest.raises(NotLeasedError, match=r"'travel' cannot be committed.*holds 'food'"):
        cursor.require_lease("run", "travel", "committed")
    cursor.apply("expire", START, {"task": "food"})  # of when leases ran out
    with pytest.raises(NotLeasedError, match="holds none"):
        cursor.require_lease("run", "food", "committed")

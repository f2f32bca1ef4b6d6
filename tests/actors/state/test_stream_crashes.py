"""The stream's process dies at any moment: what was acknowledged stands, nothing is doubled.

Of the stream, the journal and the files below it together.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.state.task_stream_state import TaskStream
from tests.actors.streams import ROWS, make_live_stream, snapshot


class CrashError(BaseException):
    """Death at a chosen system call: not an Exception, so that no handler tidies up after it."""


def one_task(stream: TaskStream) -> None:
    """Every kind of call, each written so that it may be repeated."""
    stream.append(["animals", "food"], call_id="append-1")
    stream.append(["travel"], ["travel", "animals", "food"], call_id="append-2")
    if stream.status()["pending"] == ["travel", "animals", "food"]:
        stream.reorder(["animals", "travel", "food"])
    stream.close()
    if "run" not in stream.status()["consumers"]:
        stream.register("run")
    generation = stream.status()["consumers"]["run"]["generation"]
    lease = stream.lease("run", generation)
    assert lease is not None
    stream.open_split("run", generation, 0, "animals", "train", call_id="call-1")
    stream.trained("run", generation, "animals")
    stream.commit("run", generation, "animals", {"row": [0.5]})


def counting(call: Callable[..., Any], budget: list[int], before: bool) -> Callable[..., Any]:
    """Let `call` crash, before or after it takes effect, once the budget of calls is spent."""

    def counted(*arguments: Any) -> Any:
        budget[0] -= 1
        if budget[0] < 0 and before:
            raise CrashError
        result = call(*arguments)
        if budget[0] < 0:
            raise CrashError
        return result

    return counted


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("compact_after", "survived"),
    # Ten records, three system calls each; then also four snapshots.
    [*((100, number) for number in range(30)), *((2, number) for number in range(42))],
)
def test_a_death_at_any_system_call_is_survived(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compact_after: int,
    survived: int,
    before: bool,
) -> None:
    """Else a kill at a bad moment loses a commit, doubles a log entry, or blocks the restart."""
    budget = [survived]
    with monkeypatch.context() as patches:
        for name in ("fsync", "replace"):
            patches.setattr(os, name, counting(getattr(os, name), budget, before))
        with pytest.raises(CrashError):
            one_task(make_live_stream(tmp_path, compact_after=compact_after))
    stream = make_live_stream(tmp_path, compact_after=compact_after)
    if not stream.committed("run"):
        one_task(stream)
    again = make_live_stream(tmp_path)
    assert again.status()["tasks"] == ["animals", "travel", "food"]
    assert not again.status()["open"]
    assert snapshot(again) == snapshot(stream)
    assert again.status()["consumers"]["run"]["generation"] == 1
    assert again.committed("run") == [{"row": [0.5]}]
    assert again.access_log()["rows"].to_pylist() == [ROWS["train"]]
    assert again.lease("run", 1) is not None

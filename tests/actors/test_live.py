"""What is done to a run's stream from outside of the run: its pending tasks stay in their order."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from actors.live import append_in_order, arrange
from system.config.compose import compose
from system.errors import ConfigError
from system.objectives.retrieval import objective as retrieval_objective
from system.stream.task_source import StreamFullError, StreamStatus
from tests.actors.streams import learn_next, make_live_stream


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        ("given", ["animals", "food"], ["animals", "food", "travel"]),
        ("reversed", ["food", "animals"], ["food", "travel", "animals"]),
    ],
)
def test_pending_tasks_come_by_the_policy_as_they_were_given(
    tmp_path: Path, policy: str, before: list[str], after: list[str]
) -> None:
    """ "reversed" is the newest first, and not the last order turned over."""
    experiment = compose([f"benchmark.order={policy}", "stream.live=true"])
    stream = make_live_stream(tmp_path, "animals", "food")
    assert arrange(stream, experiment) == before
    generation = stream.register("run")
    assert learn_next(stream, "run", generation) == before[0]
    assert append_in_order(stream, experiment, ["travel"]) == after[1:]
    assert make_live_stream(tmp_path, "animals", "food").status()["tasks"] == after


def test_similar_tasks_follow_each_other_also_when_they_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"animals": [1.0, 0.0], "food": [0.0, 1.0], "travel": [0.9, 0.1]}
    backbone = SimpleNamespace(name_features=lambda tasks: torch.tensor([names[t] for t in tasks]))
    monkeypatch.setattr(retrieval_objective, "load_backbone", lambda _: backbone)
    experiment = compose(["benchmark.order=similarity", "stream.live=true"])
    stream = make_live_stream(tmp_path, "animals", "food")
    generation = stream.register("run")
    learn_next(stream, "run", generation)
    assert append_in_order(stream, experiment, ["travel"]) == ["travel", "food"]


@pytest.mark.parametrize(
    ("tasks", "error"), [(["animals"], ConfigError), (["food", "travel"], StreamFullError)]
)
def test_an_append_in_order_that_cannot_be_changes_nothing(
    tmp_path: Path, tasks: list[str], error: type[Exception]
) -> None:
    experiment = compose(["benchmark.order=reversed", "stream.live=true"])
    stream = make_live_stream(tmp_path, "animals", max_pending=2)
    with pytest.raises(error):
        append_in_order(stream, experiment, tasks)
    assert make_live_stream(tmp_path, "animals").status()["tasks"] == ["animals"]


def test_a_task_taken_while_an_append_is_ordered_keeps_its_place(tmp_path: Path) -> None:
    """Without that the append would fail, or put a task that is being learned behind the others."""
    experiment = compose(["benchmark.order=reversed", "stream.live=true"])
    stream = make_live_stream(tmp_path, "animals", "food")
    generation = stream.register("run")
    status, looks = stream.status, list[str]()

    def taken_after_the_look() -> StreamStatus:
        found = status()
        if not looks:
            looks.append("first")
            stream.lease("run", generation)
        return found

    stream.status = taken_after_the_look  # type: ignore[method-assign]
    assert append_in_order(stream, experiment, ["travel"]) == ["travel", "food"]
    assert status()["tasks"] == ["animals", "travel", "food"]

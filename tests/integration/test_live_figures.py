"""What a live stream's figures are worth beside those of a run that was given all its tasks."""

from pathlib import Path
from typing import Any

import pytest

from actors.state.task_stream_state import TaskStream
from tests.integration.in_process import learn
from tests.integration.small_stream import TASKS, adapters, figures, prepare_small_stream

LIVE = ("stream.live=true", f"benchmark.tasks=[{TASKS[0]}]")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("live")
    prepare_small_stream(root)
    return root


def feed(stream: TaskStream) -> None:
    """Two more tasks, one by one, and no others."""
    for task in TASKS[1:]:
        stream.append([task])
    stream.close()


def without_names(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key not in ("run", "wall_seconds")}


@pytest.mark.parametrize("gallery", ["all", "seen"])
def test_an_ended_live_stream_has_the_figures_of_a_given_one(root: Path, gallery: str) -> None:
    """To the bit, those of tasks that came after others were learned too."""
    name = f"evaluation.gallery={gallery}"
    given = learn(root, f"given-{gallery}", name)
    live = learn(root, f"live-{gallery}", name, *LIVE, feed=feed)
    assert adapters(root, f"live-{gallery}") == adapters(root, f"given-{gallery}")
    assert figures(root, f"live-{gallery}") == figures(root, f"given-{gallery}")
    assert without_names(live) == without_names(given)
    assert live["evaluation"]["tasks_known"] == "all"


def test_a_method_that_keeps_no_older_state_has_the_figures_of_the_time(root: Path) -> None:
    """Its earlier rows cannot be made again: they say nothing of tasks that came later."""
    l2p = ("method=l2p", "method.top_k=1", "method.prompt_length=2", "stage.epochs=1")
    given = learn(root, "given-l2p", *l2p)
    live = learn(root, "live-l2p", *l2p, *LIVE, feed=feed)
    assert adapters(root, "live-l2p") == adapters(root, "given-l2p")
    rows, whole = figures(root, "live-l2p"), figures(root, "given-l2p")
    assert {(i, j) for i, j, _ in rows if i >= 0} == {
        (i, j) for i in range(3) for j in range(i + 1)
    }
    last = {key: value for key, value in whole.items() if key[0] == len(TASKS) - 1}
    assert {key: value for key, value in rows.items() if key[0] == len(TASKS) - 1} == last
    assert live["average"] == given["average"]
    assert live["evaluation"]["tasks_known"] == "learned so far"
    assert live["forward_transfer"]["t2i_r1"] is None
    assert "not evaluated" in live["undefined"]["forward_transfer.t2i_r1"]

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from system.errors import AdapterMismatchError, DataError
from system.stream.router import Router, route_by_centers


def _cloud(task: int, rows: int = 40, seed: int = 0, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(100 * seed + task)
    return torch.randn(rows, width, generator=generator) + 4 * torch.eye(width)[task]


def _router(tasks: tuple[int, ...] = (0, 1, 2), seed: int = 0) -> Router:
    router = Router(seed=seed)
    for task in tasks:
        router.add_task(task, _cloud(task), _cloud(task, seed=1))
    return router


def test_samples_go_to_the_task_they_came_from() -> None:
    router = _router()
    for task in range(3):
        assert (router.route("vision", _cloud(task, seed=2)) == task).double().mean() > 0.9
        assert (router.route("text", _cloud(task, seed=3)) == task).double().mean() > 0.9


def test_route_does_not_depend_on_the_batch_or_its_order() -> None:
    """A route chosen per batch would leak between test samples."""
    router = _router()
    features = torch.cat([_cloud(task, seed=5) for task in range(3)])
    whole = router.route("vision", features)
    for batch in (1, 7, 64):
        parts = [
            router.route("vision", features[start : start + batch])
            for start in range(0, len(features), batch)
        ]
        assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    assert torch.equal(router.route("vision", features[order]), whole[order])


def test_same_seed_gives_the_same_centres_to_the_bit() -> None:
    first, second, other = _router().state(), _router().state(), _router(seed=1).state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["vision.centers"], other["vision.centers"])


def test_a_later_task_leaves_old_centres_alone() -> None:
    """Replay-free evaluation rests on old tasks staying as they were."""
    before, after = _router((0, 1)).state(), _router((0, 1, 2)).state()
    for key, value in before.items():
        assert torch.equal(after[key][: len(value)], value)


def test_order_of_learning_does_not_change_the_routes() -> None:
    features = torch.cat([_cloud(task, seed=5) for task in range(3)])
    expected = _router((0, 1, 2)).route("text", features)
    assert torch.equal(_router((2, 0, 1)).route("text", features), expected)


def test_ties_go_to_the_lowest_task() -> None:
    router = Router(centers_per_task=1)
    for task in (1, 0):
        router.add_task(task, torch.ones(3, 2), torch.ones(3, 2))
    assert router.route("vision", torch.zeros(2, 2)).tolist() == [0, 0]
    assert route_by_centers(torch.ones(3, 5, 2), torch.zeros(1, 2)).tolist() == [0]


def test_distance_is_l1() -> None:
    """As published; by L2 this sample would go to task 1."""
    centers = torch.tensor([[[3.0, 0.0]], [[2.0, 2.0]]])
    assert route_by_centers(centers, torch.zeros(1, 2)).tolist() == [0]


@pytest.mark.filterwarnings("error")
def test_a_task_with_fewer_distinct_samples_than_centres_still_routes() -> None:
    """A tiny task, or one whose texts are all alike, must not stop the run."""
    router = Router(centers_per_task=5)
    router.add_task(0, torch.eye(3)[:2].repeat(4, 1), torch.eye(3)[:1])
    router.add_task(1, _cloud(1, width=3), _cloud(1, width=3))
    state = router.state()
    assert state["vision.task"].tolist() == [0] * 2 + [1] * 5
    assert state["text.task"].tolist() == [0] * 1 + [1] * 5
    assert router.route("text", torch.eye(3)[:1]).tolist() == [0]


def test_state_survives_a_file_and_goes_on_learning(tmp_path: Path) -> None:
    path = tmp_path / "router.safetensors"
    save_file(_router((0, 1)).state(), path)
    router = Router.from_state(load_file(path))
    assert router.tasks == (0, 1)
    router.add_task(2, _cloud(2), _cloud(2, seed=1))
    expected = _router().state()
    assert all(torch.equal(router.state()[key], expected[key]) for key in expected)


def test_empty_state_survives_a_file(tmp_path: Path) -> None:
    """A run that stops before its first task is saved and resumed too."""
    save_file(Router().state(), tmp_path / "router.safetensors")
    assert Router.from_state(load_file(tmp_path / "router.safetensors")).tasks == ()


def test_misuse_is_refused_with_its_reason() -> None:
    router = _router((0,))
    with pytest.raises(ValueError, match="task 0 is in the router already"):
        router.add_task(0, _cloud(0), _cloud(0))
    with pytest.raises(ValueError, match="no task yet"):
        Router().route("vision", _cloud(0))
    with pytest.raises(AdapterMismatchError, match="another backbone"):
        router.route("vision", torch.zeros(2, 5))
    with pytest.raises(AdapterMismatchError, match="another backbone"):
        router.add_task(1, torch.zeros(2, 5), torch.zeros(2, 5))
    with pytest.raises(AdapterMismatchError, match="keys"):
        Router.from_state({"vision.centers": torch.zeros(1, 2)})


def test_a_refused_task_leaves_the_router_as_it_was() -> None:
    router = _router((0,))
    with pytest.raises(DataError, match="text of task 1"):
        router.add_task(1, _cloud(1), torch.full((3, 6), math.nan))
    with pytest.raises(AdapterMismatchError, match="another backbone"):
        router.add_task(1, _cloud(1), torch.zeros(2, 5))
    with pytest.raises(DataError, match="vision of task 1"):
        router.add_task(1, torch.empty(0, 6), _cloud(1))
    assert router.state()["vision.task"].tolist() == [0] * 5

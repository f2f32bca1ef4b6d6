"""Two ranks of NCCL on one GPU are refused before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from system.engine import cards
from system.engine.cards import require_own_cards
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError

GPU = torch.device("cuda", 0)
SHARED = r"workers 0, 2 compute on one GPU \(GPU-a of north\).*set cluster\.workers=2, or give each"


def test_the_workers_that_share_a_card_are_named() -> None:
    """NCCL itself says "Duplicate GPU detected", or waits for ever, minutes later."""
    with pytest.raises(ConfigError, match=SHARED):
        require_own_cards(["GPU-a of north", "GPU-b of north", "GPU-a of north"])
    require_own_cards(["GPU-a of north", "GPU-b of north"])
    require_own_cards([])


@pytest.mark.parametrize(
    ("backend", "found", "refused"),
    [
        ("nccl", ["GPU-a of north", "GPU-b of north", "GPU-a of north"], True),
        ("nccl", ["GPU-a of north", "GPU-a of south", "GPU-b of north"], False),
        ("gloo", ["GPU-a of north"] * 3, False),
    ],
)
def test_a_worker_looks_as_it_joins_its_group(
    monkeypatch: pytest.MonkeyPatch, backend: str, found: list[str], refused: bool
) -> None:
    """With stand-ins for Ray's worker and the process group of three ranks, this one the last."""
    context = SimpleNamespace(get_world_rank=lambda: 2, get_world_size=lambda: 3)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: GPU)
    monkeypatch.setattr(cards, "card_of", lambda device: found[-1])
    made: list[str] = []

    def new_group(*, backend: str) -> str:
        made.append(backend)
        return "hosts"

    def all_gather_object(into: list[Any], own: str, *, group: str) -> None:
        assert (own, group, len(into)) == (found[-1], "hosts", len(found))
        into[:] = found

    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    monkeypatch.setattr(dist, "new_group", new_group)
    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    monkeypatch.setattr(dist, "destroy_process_group", lambda group: None)
    if refused:
        with pytest.raises(ConfigError, match=SHARED):
            WorkerGroup.join()
    else:
        assert WorkerGroup.join().size == 3
    assert made == (["gloo"] if backend == "nccl" else [])

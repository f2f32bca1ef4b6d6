"""A worker decodes on the CPUs that are its own."""

import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from system.config.parse import parse_dataclass
from system.config.schema import OptimiserConfig, StageConfig
from system.engine.loader_threads import loader_threads
from system.errors import ConfigError

AUTO = StageConfig(
    epochs=1, batch_size=2, micro_batches=1, optimiser=OptimiserConfig(), loader_threads="auto"
)


def test_auto_is_as_many_as_the_process_may_use_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container of few CPUs on a large machine; where Ray is absent nobody accounts them."""
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    notes: list[str] = []
    assert loader_threads(AUTO, notes.append) == 3
    assert notes == ["loader threads: 3, of 3 CPUs that this process may run on"]


@pytest.mark.parametrize(("assigned", "threads"), [({"CPU": 5.0}, 5), ({"CPU": 0.5}, 1), ({}, 1)])
def test_auto_in_a_worker_of_ray_is_what_ray_accounts_to_it(
    monkeypatch: pytest.MonkeyPatch, assigned: dict[str, float], threads: int
) -> None:
    """Two workers on a node would each take all of its CPUs."""
    from ray._private import worker

    context = SimpleNamespace(get_assigned_resources=lambda: assigned)
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(worker, "global_worker", SimpleNamespace(mode=worker.WORKER_MODE))
    monkeypatch.setitem(sys.modules, "ray._private.worker", worker)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    notes: list[str] = []
    assert loader_threads(AUTO, notes.append) == threads
    assert "that Ray accounts to this worker" in notes[0]


def test_a_number_is_taken_as_it_is() -> None:
    notes: list[str] = []
    assert loader_threads(replace(AUTO, loader_threads=7), notes.append) == 7
    assert notes == []


def test_other_words_and_numbers_are_refused() -> None:
    values = {"epochs": 1, "batch_size": 2, "micro_batches": 1, "optimiser": {}}
    with pytest.raises(ConfigError, match=r"stage.loader_threads.* takes an int or auto"):
        parse_dataclass(StageConfig, values | {"loader_threads": "all"}, "stage")
    with pytest.raises(ConfigError, match="loader_threads=0 must be at least 1"):
        parse_dataclass(StageConfig, values | {"loader_threads": 0}, "stage")
    with pytest.raises(ConfigError, match=r"cache_gb=0\.0 must be above 0"):
        parse_dataclass(StageConfig, values | {"loader_threads": "auto", "cache_gb": 0}, "stage")

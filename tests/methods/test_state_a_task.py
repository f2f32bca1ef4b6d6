"""What a task adds to LPI's state at the sizes of ViT-B/16: the bytes that the README states."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from system.config.schema import OptimiserConfig
from system.engine.optimisation import build_optimiser, optimiser_tensors
from system.storage.adapters import AdapterHeader, task_file
from system.stream.learned_state import LearnedState
from tuning.report.parameters import published_clip

TASKS = tuple(f"task {number}" for number in range(12))
LAYERS, VISION, TEXT, FEATURES = 12, 768, 512, 512
LENGTH, RANK, CENTERS, FLOAT = 16, 4, 5, 4
PROMPTS = FLOAT * RANK * (LAYERS + 2 * LENGTH + VISION + TEXT)
INTERACTION = FLOAT * (2 * RANK * (LAYERS + VISION + TEXT + 1) + 2 * (VISION + TEXT))
ROUTER = FLOAT * 2 * CENTERS * FEATURES
ROUTER_OWNERS = 8 * 2 * CENTERS  # which task each centre is of, in memory
SIMILARITY = FLOAT * FEATURES


def tensors(value: Any, known: set[int]) -> Iterator[Tensor]:
    """Every tensor that an object holds, wherever it keeps it; `known` objects are left out."""
    if id(value) in known or isinstance(value, str | bytes | int | float | type | None):
        return
    known.add(id(value))
    if isinstance(value, Tensor):
        yield value
        inner: list[Any] = [value.grad]
    elif isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    else:
        inner = [vars(value)] if hasattr(value, "__dict__") else []
    for item in inner:
        yield from tensors(item, known)


def held_bytes(stream: LearnedState[Any]) -> int:
    """Bytes of all tensors that the stream holds, the frozen backbone's aside."""
    stores = {t.untyped_storage() for t in tensors(stream, {id(stream.model)}) if t.numel()}
    sizes = {store.data_ptr(): store.nbytes() for store in stores}
    return sum(sizes.values())


def begin(stream: LearnedState[Any], task: int) -> dict[str, nn.Parameter]:
    """What a worker does when a task comes; its parameters, with gradients."""
    generator = torch.Generator().manual_seed(task)
    images, texts = (torch.randn(10, FEATURES, generator=generator) for _ in range(2))
    stream.similarities.add(stream.similarity_entry(images, texts))
    assert stream.router is not None
    stream.router.add_task(task, images, texts)
    stream.method.begin_task(task, stream.model)
    parameters = stream.method.task_parameters(task)
    torch.autograd.backward(list(stream.method.regularisers(stream.similarities.matrix()).values()))
    return parameters


@pytest.mark.parametrize(("depth", "trained"), [(0, PROMPTS), (None, PROMPTS + INTERACTION)])
def test_twelve_tasks_fit_the_stated_memory(
    tmp_path: Path, depth: int | None, trained: int
) -> None:
    """A stream of days must not fill a disk or a GPU with what its README does not name."""
    header = AdapterHeader(
        backbone="ViT-B/16",
        backbone_fingerprint="",
        method={"name": "lpi", "interaction": {"depth": depth}},
        benchmark="",
        benchmark_fingerprint="",
        protocol="corrected",
        seed=0,
        tasks=TASKS,
        router={"centers": CENTERS},
    )
    stream = LearnedState(header, published_clip("cpu"))
    held, moments = [], []
    for task in range(len(TASKS)):
        parameters = begin(stream, task)
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        optimiser = build_optimiser(OptimiserConfig(), parameters)
        optimiser.step()
        moments.append(sum(t.nbytes for t in optimiser_tensors(optimiser).values()))
        stream.method.zero_grad()
        held.append(held_bytes(stream))
    assert {b - a for a, b in pairwise(held)} == {trained + ROUTER + ROUTER_OWNERS + SIMILARITY}
    assert held[0] == trained + ROUTER + ROUTER_OWNERS + SIMILARITY  # nothing beside the tasks'
    assert set(moments) == {trained}  # SGD's momentum, of the task in training alone
    stream.save_pretrained(tmp_path)
    for task in range(len(TASKS)):
        data = (tmp_path / task_file(task)).read_bytes()
        names = 8 + int.from_bytes(data[:8], "little")  # safetensors' own header of names
        assert len(data) - names == trained + ROUTER + SIMILARITY
        assert names < 2500


def test_the_readme_states_these_bytes() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for size in (PROMPTS, ROUTER, SIMILARITY):
        assert f"{size:,}" in readme

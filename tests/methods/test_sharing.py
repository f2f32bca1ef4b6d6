"""Any method as a stream learns it: a task's own parameters for each sample, shared, or frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import AdapterMismatchError, ConfigError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch, ScoredBoxes
from system.methods.base import GroundingSetting
from system.methods.sharing import StreamMethod, build_method, check_state, method_kind
from tests.grounders.small_glip import IMAGE_SIZE, TEXTS, loaded, write_small_glip
from tests.methods.method_parts import backbone, build, images, tokens

#: Methods whose entries are of all kinds: prompts that are added and whose tokens interact, layers'
#: prompts, a context, functions at the ends.
METHODS: dict[str, dict[str, Any]] = {
    "lpi": {
        "rank": 2,
        "prompt_length": 4,
        "text_prompt_length": 2,
        "init_std": 1.5,
        "task_start": "own",
        "entry": "add",
        "interaction": {"operands": "tokens", "depth": None},
    },
    "s_prompts": {"prompt_length": 2, "text_prompt_length": 3, "init_std": 1.0},
    "clip_adapter": {"ratio": 0.9},
}
TASKS, SAMPLES = 3, 64


def a_task(name: str, grounder: Grounder, tasks: int = TASKS) -> StreamMethod:
    """Each of the tasks with parameters of its own, whatever the method says of itself."""
    section = {"name": name, "sharing": "own"} | METHODS[name]
    method = build_method(section, GroundingSetting(grounder.shape, 3))
    for task in range(tasks):
        method.begin_task(task, grounder)
    return method


def samples(grounder: Grounder) -> tuple[Tensor, list[str], Tensor]:
    """Images, expressions and a task for each, in no order."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(SAMPLES, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    tasks = torch.randint(TASKS, (SAMPLES,), generator=generator)
    return images, [TEXTS[i % len(TEXTS)] for i in range(SAMPLES)], tasks


def found(grounder: Grounder, method: StreamMethod, size: int, tasks: Tensor) -> list[ScoredBoxes]:
    images, texts, _ = samples(grounder)
    scored, dtype = [], next(grounder.parameters()).dtype
    for start in range(0, SAMPLES, size):
        rows = slice(start, start + size)
        batch = GroundingBatch(images[rows].to(dtype), grounder.tokenize(texts[rows]))
        entries = method.entries(grounder, batch, tasks[rows], None)
        scored += grounder.ground(batch, entries)
    return scored


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(METHODS))
def test_prompts_are_chosen_per_sample_never_per_batch(name: str, tmp_path: Path) -> None:
    """Figures that depend on the test batch could not be compared.

    In double precision, where batches of other sizes do not round visibly otherwise.
    """
    small = loaded(write_small_glip(tmp_path)).double()
    method, tasks = a_task(name, small).double(), samples(small)[2]
    single = found(small, method, 1, tasks)
    for size in (7, 64):
        for one, other in zip(single, found(small, method, size, tasks), strict=True):
            torch.testing.assert_close(one.scores, other.scores, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-5, atol=1e-6)
    elsewhere = found(small, method, 64, (tasks + 1) % TASKS)
    moved = [
        not torch.allclose(a.scores[:1], b.scores[:1], atol=1e-6)
        for a, b in zip(single, elsewhere, strict=True)
    ]
    assert sum(moved) > SAMPLES // 2, "the task makes no difference: the test would see nothing"


@pytest.mark.parametrize("name", ["lpi", "s_prompts"])
def test_only_the_current_task_trains(name: str, small: Grounder) -> None:
    """An earlier task that moved on would be forgetting without being seen as such."""
    method = a_task(name, small)
    trains = {key for key, p in method.named_parameters() if p.requires_grad}
    assert trains
    assert all(key.startswith("tasks.2.") for key in trains)


@torch.no_grad()
def test_a_task_is_loaded_to_the_bit(small: Grounder) -> None:
    method, tasks = a_task("lpi", small), samples(small)[2]
    loaded = build_method({"name": "lpi"} | METHODS["lpi"], GroundingSetting(small.shape, seed=99))
    for task in range(TASKS):
        loaded.load_task(task, method.task_parameters(task), small)
    pairs = zip(found(small, method, 64, tasks), found(small, loaded, 64, tasks), strict=True)
    assert all(torch.equal(a.scores, b.scores) for a, b in pairs)


def test_a_method_without_parameters_of_a_tasks_own_goes_on_from_task_to_task(
    small: Grounder,
) -> None:
    method = build_method({"name": "vpt", "prompt_length": 2}, GroundingSetting(small.shape, 0))
    assert method.shares_parameters
    assert not method.needs_router
    method.begin_task(0, small)
    first = method.task_parameters(0)
    method.begin_task(1, small)
    assert {k: id(p) for k, p in first.items()} == {
        k: id(p) for k, p in method.task_parameters(1).items()
    }
    assert method.parameters_in_all() == method.parameters_per_task() > 0


def test_the_frozen_grounder_learns_nothing(small: Grounder) -> None:
    method = build_method({"name": "zero_shot"}, GroundingSetting(small.shape, 0))
    method.begin_task(0, small)
    assert method.trains_on == "nothing"
    assert not method.learns_at(0, 3)
    assert method.parameters_in_all() == 0


def test_a_method_of_retrieval_is_told_apart_from_an_unknown_one(small: Grounder) -> None:
    with pytest.raises(ConfigError, match="retrieval"):
        build_method({"name": "dualprompt"}, GroundingSetting(small.shape, 0))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.zeros(2, 3)}, "lacks b"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(1), "c": torch.zeros(1)}, "holds c"),
        ({"a": torch.zeros(3, 2), "b": torch.zeros(1)}, r"a has shape \(3, 2\), expected \(2, 3\)"),
    ],
)
def test_a_state_is_compared_strictly(state: dict[str, torch.Tensor], message: str) -> None:
    expected = {"a": (2, 3), "b": (1,)}
    check_state({"a": torch.zeros(2, 3), "b": torch.zeros(1)}, expected)
    with pytest.raises(AdapterMismatchError, match=message):
        check_state(state, expected)


#: Retrieval methods of all kinds: prompts, pools, objects that grow, weights.
RETRIEVAL = ["lpi", "maple", "l2p", "dualprompt", "coda_prompt", "fine_tune", "lora", "dcp"]
SIZES: dict[str, dict[str, Any]] = {
    "lpi": {"task_start": "own"},
    "l2p": {"pool_size": 4, "top_k": 2},
}
SHORT: dict[str, Any] = {"prompt_length": 2}


def on_clip(name: str, sharing: str | None, tasks: int = 2) -> StreamMethod:
    """A method of some tasks, each of which moved what it trains."""
    short = {} if name in ("fine_tune", "lora", "zero_shot") else SHORT
    section = SIZES.get(name, {}) | short | {"sharing": sharing}
    method = build(name, section)
    generator = torch.Generator().manual_seed(5)
    for task in range(tasks):
        method.begin_task(task, backbone())
        with torch.no_grad():
            for parameter in method.task_parameters(task).values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return method


def inputs(method: StreamMethod, modality: Modality) -> Tensor:
    return images() if modality == "vision" else tokens(method)


@torch.no_grad()
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", RETRIEVAL)
def test_with_its_own_parameters_each_sample_gets_those_of_its_task(
    name: str, modality: Modality
) -> None:
    """Chosen per batch, features would depend on which samples come together."""
    method = on_clip(name, "own")
    assert method.needs_router
    given, tasks = inputs(method, modality), torch.tensor([1, 0, 1, 0, 0])
    mixed = method.encode(backbone(), modality, given, tasks)
    apart = [method.of(task).encode(backbone(), modality, given) for task in (0, 1)]
    for row, task in enumerate(tasks.tolist()):
        torch.testing.assert_close(mixed[row], apart[task][row], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(apart[0], apart[1], atol=1e-4), "the task makes no difference"


@pytest.mark.parametrize("name", RETRIEVAL)
def test_with_its_own_parameters_a_task_leaves_the_earlier_ones(name: str) -> None:
    method = on_clip(name, "own")
    first, second = (method.task_parameters(task) for task in (0, 1))
    assert not any(p.requires_grad for p in first.values())
    assert all(p.requires_grad for p in second.values())
    assert method.parameters_in_all() == 2 * method.parameters_per_task() > 0


@pytest.mark.parametrize("name", ["lpi", "s_prompts"])
def test_a_method_of_a_task_s_own_can_go_on_from_task_to_task(name: str) -> None:
    """What sharing is worth can be told only where nothing else differs."""
    method = on_clip(name, "shared")
    assert method.shares_parameters
    assert not method.needs_router
    assert method.parameters_in_all() == method.parameters_per_task() > 0
    given, last = images(), torch.ones(5, dtype=torch.long)
    features = method.encode(backbone(), "vision", given, last)
    assert torch.equal(method.encode(backbone(), "vision", given, last - 1), features)


@torch.no_grad()
@pytest.mark.parametrize("name", [*RETRIEVAL, "zero_shot"])
def test_frozen_is_the_frozen_backbone(name: str) -> None:
    method = on_clip(name, "frozen")
    assert method.trains_on == "nothing"
    assert not method.learns_at(1, 2)
    assert (method.parameters_in_all(), method.placeholders) == (0, 0)
    for modality in MODALITIES:
        given = inputs(method, modality)
        features = method.encode(backbone(), modality, given, torch.zeros(5, dtype=torch.long))
        assert torch.equal(features, backbone()(modality, given, None))


def test_frozen_is_the_frozen_grounder(small: Grounder) -> None:
    section = {"name": "vpt", "prompt_length": 2, "sharing": "frozen"}
    method = build_method(section, GroundingSetting(small.shape, 0))
    method.begin_task(0, small)
    images = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    given = GroundingBatch(images, small.tokenize(TEXTS[:1]))
    found = method.entries(small, given, torch.zeros(1), None)
    assert found == Entries()


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "coda_prompt", "s_prompts", "maple"])
def test_tasks_can_start_from_one_draw(name: str) -> None:
    """As LPI's do: else isolation and the luck of the draw are compared together."""
    starts = []
    for task_start in (None, "same"):
        section = SHORT | {"sharing": "own", "task_start": task_start}
        method = build(name, section)
        method.begin_task(1, backbone())
        starts.append([method.task_state(task) for task in (0, 1)])
    drawn, same = starts
    assert all(torch.equal(same[0][key], value) for key, value in same[1].items())
    assert all(torch.equal(same[0][key], value) for key, value in drawn[0].items())
    if name != "maple":  # whose tasks start from one draw anyway
        assert not all(torch.equal(drawn[0][key], value) for key, value in drawn[1].items())


def test_null_is_the_method_s_own_default() -> None:
    """Results of every run so far rest on it."""
    for name, sharing in (("lpi", "own"), ("maple", "shared"), ("zero_shot", "frozen")):
        for section in ({"name": name}, {"name": name, "sharing": None}):
            assert method_kind(section, "retrieval").sharing == sharing
            assert method_kind(section, "grounding").sharing == sharing


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "lpi", "sharing": "each"}, "'each' is not one of: own, shared, frozen, or null"),
        ({"name": "maple", "sharing": "own", "task_start": "own"}, "'own' is not same"),
        ({"name": "maple", "task_start": "same"}, r"task_start=same goes with method\.sharing=own"),
        ({"name": "joint", "sharing": "own"}, "method=joint learns all tasks at once"),
    ],
)
def test_a_sharing_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method_kind(section, "retrieval")

"""Every method on every objective, each task with its own parameters and all with one set.

Two tasks train a step each by the objective's own loss, are saved, and are loaded elsewhere.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.mask_vae_network import MaskVaeConfig, build_mask_vae
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError
from system.grounders.grounder import Grounder, GroundingBatch, ScoredBoxes
from system.methods.base import (
    METHODS,
    GroundingSetting,
    Objective,
    RetrievalSetting,
    Sharing,
    methods_on,
)
from system.methods.sharing import StreamMethod, build_method, method_kind
from tests.grounders.small_glip import BOXES, IMAGE_SIZE, TEXTS
from tests.methods.method_parts import backbone, images, tokens

#: Sizes that fit the small models, and starts that make tasks tell apart.
SECTIONS: dict[str, dict[str, Any]] = {
    "coda_prompt": {"prompt_length": 2, "components_per_task": 2, "entry": "prefix"},
    "coop": {"context_length": 2, "init_std": 0.5},
    "dcp": {"prompt_length": 4},
    "diff_prompt": {"generator": {}, "prompt_length": 2, "depth": 2, "steps": 5},
    "dualprompt": {"prompt_length": 2, "entry": "prefix", "init_std": 0.5},
    "ewc": {"prompt_length": 2, "text_prompt_length": 2, "init_std": 0.5},
    "fedtpg": {"context_length": 2, "init_std": 0.5},
    "l2p": {"pool_size": 4, "top_k": 2, "prompt_length": 2, "query": "feature"},
    "lpi": {"prompt_length": 2, "rank": 2},
    "lpi_diff_prompt": {
        "generator": {},
        "prompt_length": 2,
        "depth": 2,
        "steps": 5,
        "low_rank": {"rank": 2, "prompt_length": 2},
    },
    "lwf": {"prompt_length": 2, "text_prompt_length": 2, "init_std": 0.5},
    "maple": {"prompt_length": 2},
    "s_prompts": {"prompt_length": 2, "text_prompt_length": 2, "init_std": 0.5},
    "vpt": {"prompt_length": 2, "init_std": 0.5},
}
#: Sharings that mean nothing for a method, and a part of the reason that is given.
REFUSED: dict[tuple[str, Sharing], str] = {
    ("ewc", "own"): "no earlier task",
    ("lwf", "own"): "there is none",
    ("joint", "own"): "all tasks at once",
    ("zero_shot", "own"): "trains nothing",
    ("zero_shot", "shared"): "trains nothing",
}
ALONE = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))
RATE = 0.5


def cases(objective: Objective, *sharings: Sharing) -> list[Any]:
    return [
        pytest.param(name, sharing, id=f"{name}-{sharing}")
        for name in methods_on(objective)
        for sharing in sharings
        if (name, sharing) not in REFUSED
    ]


@pytest.fixture(scope="module")
def masks() -> MaskDecoder:
    sizes = MaskVaeConfig(16, (4, 8), 2)
    return MaskDecoder(sizes, "d", lambda: (build_mask_vae(sizes, seed=0), 0.5))


def built(
    name: str, sharing: Sharing, shape: Any, masks: MaskDecoder | None, seed: int
) -> StreamMethod:
    section = {"name": name, "sharing": sharing} | SECTIONS.get(name, {})
    if masks is None:
        return build_method(section, RetrievalSetting(shape, seed))
    return build_method(section, GroundingSetting(shape, seed, masks=masks))


def step(method: StreamMethod, task: int) -> None:
    """One step of SGD on the gradients that are there."""
    for name, parameter in method.task_parameters(task).items():
        assert parameter.requires_grad, name
        if parameter.grad is not None:
            with torch.no_grad():
                parameter.sub_(RATE * parameter.grad)
    method.zero_grad()


def copies(tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def check_what_moved(
    method: StreamMethod, sharing: Sharing, saved: list[dict[str, Tensor]]
) -> None:
    """What the first task left, after the second one trained."""
    first, second = (copies(method.task_parameters(task)) for task in (0, 1))
    stayed = [torch.equal(first[key], saved[0][key]) for key in first]
    if sharing == "own":
        assert all(stayed), "an earlier task's parameters moved: forgetting that nobody sees"
        assert not any(p.requires_grad for p in method.task_parameters(0).values())
        assert method.parameters_in_all() == 2 * method.parameters_per_task() > 0
    elif method.shares_parameters:
        assert not all(stayed), "the second task taught nothing"
        assert first.keys() == second.keys()
        assert method.parameters_in_all() == method.parameters_per_task() > 0


def reloaded(source: StreamMethod, fresh: StreamMethod, model: Any, saved: Any) -> StreamMethod:
    """A method of another seed that loads what was saved after each task."""
    for task, state in enumerate(saved):
        fresh.load_task(task, state, model)
    assert fresh.known_tasks == source.known_tasks
    last = len(saved) - 1
    for name, tensor in source.task_state(last).items():
        assert torch.equal(fresh.task_state(last)[name], tensor), name
    return fresh


def learn_retrieval(method: StreamMethod) -> list[dict[str, Tensor]]:
    saved = []
    for task in range(2):
        method.begin_task(task, backbone())
        similarity = torch.eye(task + 1)
        for _ in range(2):  # some parameters get a gradient only when others have left zero
            accumulate_gradients(
                PromptedEncoder(method, backbone()),
                [TokenBatch(images() + task, tokens(method).roll(task, 0))],
                ALONE,
                backbone().logit_scale,
                similarity,
            )
            step(method, task)
        method.end_task({m: torch.zeros(1, 20) for m in MODALITIES}, [])
        saved.append(copies(method.task_state(task)))
    return saved


def given(method: StreamMethod, modality: Modality) -> Tensor:
    return images() if modality == "vision" else tokens(method)


@pytest.mark.parametrize(("name", "sharing"), cases("retrieval", "own", "shared"))
def test_on_a_dual_encoder(name: str, sharing: Sharing) -> None:
    """A comparison with `method.sharing` both ways is one of the same methods only if all obey."""
    method = built(name, sharing, backbone().shape, None, seed=1)
    assert method.needs_router == (sharing == "own")
    saved = learn_retrieval(method)
    check_what_moved(method, sharing, saved)
    again = reloaded(method, built(name, sharing, backbone().shape, None, 9), backbone(), saved)
    mixed = torch.tensor([1, 0, 0, 1, 0])
    with torch.no_grad():
        for modality in MODALITIES:
            inputs = given(method, modality)
            found = method.encode(backbone(), modality, inputs, mixed)
            torch.testing.assert_close(again.encode(backbone(), modality, inputs, mixed), found)
            of_tasks = [method.encode(backbone(), modality, inputs, mixed * 0 + t) for t in (0, 1)]
            if sharing == "own":
                expected = torch.stack([of_tasks[t][i] for i, t in enumerate(mixed.tolist())])
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
                first, second = of_tasks
                assert not torch.allclose(first, second, atol=1e-4), "the task changes nothing"
            else:
                assert torch.equal(found, of_tasks[0])
                assert torch.equal(found, of_tasks[1])


def grounding_batch(grounder: Grounder, shift: int = 0) -> GroundingBatch:
    drawn = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(5))
    texts = TEXTS[shift:] + TEXTS[:shift]
    return GroundingBatch(drawn, grounder.tokenize(texts), [torch.tensor(boxes) for boxes in BOXES])


def latents_for(method: StreamMethod) -> Tensor | None:
    if method.latent_needs is None:
        return None
    generator = torch.Generator().manual_seed(6)
    return torch.randn(3, method.latent_needs.layers, 2, 8, 8, generator=generator)


def learn_grounding(method: StreamMethod, grounder: Grounder) -> list[dict[str, Tensor]]:
    saved = []
    for task in range(2):
        method.begin_task(task, grounder)
        for _ in range(2):
            batch = grounding_batch(grounder, task)
            tasks = torch.full((3,), task)
            entries = method.entries(grounder, batch, tasks, latents_for(method))
            terms = [term.mean() for term in grounder.losses(batch, entries).values()]
            terms += method.regularisers(torch.eye(task + 1)).values()
            torch.autograd.backward(torch.stack(terms).sum())
            step(method, task)
        method.end_task({m: torch.zeros(1, 4) for m in MODALITIES}, [])
        saved.append(copies(method.task_state(task)))
    return saved


def scored(grounder: Grounder, method: StreamMethod, tasks: Tensor) -> list[ScoredBoxes]:
    batch = grounding_batch(grounder)
    return grounder.ground(batch, method.entries(grounder, batch, tasks, latents_for(method)))


@pytest.mark.parametrize(("name", "sharing"), cases("grounding", "own", "shared"))
def test_on_a_grounder(name: str, sharing: Sharing, small: Grounder, masks: MaskDecoder) -> None:
    method = built(name, sharing, small.shape, masks, seed=1)
    assert method.needs_router == (sharing == "own")
    saved = learn_grounding(method, small)
    check_what_moved(method, sharing, saved)
    again = reloaded(method, built(name, sharing, small.shape, masks, 9), small, saved)
    mixed = torch.tensor([1, 0, 1])
    found, same = scored(small, method, mixed), scored(small, again, mixed)
    of_tasks = [scored(small, method, mixed * 0 + task) for task in (0, 1)]
    for i, task in enumerate(mixed.tolist()):
        torch.testing.assert_close(found[i].scores, same[i].scores)
        torch.testing.assert_close(found[i].scores, of_tasks[task][i].scores, rtol=1e-4, atol=1e-5)
        other = of_tasks[1 - task][i].scores
        differs = len(other) != len(found[i].scores) or not torch.allclose(found[i].scores, other)
        assert differs == (sharing == "own")


@pytest.mark.parametrize(("name", "sharing"), sorted(REFUSED))
@pytest.mark.parametrize("objective", ["retrieval", "grounding"])
def test_a_sharing_that_means_nothing_is_refused_by_reason(
    name: str, sharing: Sharing, objective: Objective
) -> None:
    """EWC with own would silently be S-Prompts, zero-shot would fail with an empty optimiser."""
    if METHODS.get(name).on(objective) is None:
        return
    with pytest.raises(
        ConfigError, match=rf"method\.sharing={sharing}: .*{REFUSED[name, sharing]}"
    ):
        method_kind({"name": name, "sharing": sharing}, objective)

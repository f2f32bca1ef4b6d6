"""LPI learns only the current task's factors, from every loss term; on a grounder as on a CLIP."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality, unit
from system.config.compose import compose
from system.errors import ConfigError
from system.methods.base import RetrievalSetting
from system.methods.losses import contrastive_loss
from system.methods.low_rank import low_rank_prompt
from system.methods.prompts.lpi import LowRankPrompts
from system.methods.sharing import StreamMethod, build_method
from tests.methods.method_parts import (
    LAYERS,
    TEXTS,
    backbone,
    build,
    images,
    released,
    tokens,
    weights,
)

# Tasks that start apart stand in for tasks that learned different things.
SIZES = {"rank": 3, "prompt_length": 4, "task_start": "own"}
FACTORS = {"layer", "position.vision", "position.text", "feature.vision", "feature.text"}


#: Of the released retrieval code, in the sizes of these tests.
RELEASED: dict[str, Any] = released("lpi") | {"rank": 3, "prompt_length": 4}


def lpi(seed: int = 0, **section: Any) -> StreamMethod:
    return build("lpi", SIZES | section, seed=seed)


def own(method: StreamMethod, task: int) -> LowRankPrompts:
    found = method.of(task)
    assert isinstance(found, LowRankPrompts)
    return found


def at_task(task: int, **section: Any) -> StreamMethod:
    method = lpi(**section)
    method.begin_task(task, backbone())
    return method


def retrieval_loss(method: StreamMethod) -> Tensor:
    tasks = torch.full((len(TEXTS),), method.current)
    vision = unit(method.encode(backbone(), "vision", images(), tasks))
    text = unit(method.encode(backbone(), "text", tokens(method), tasks))
    return contrastive_loss(backbone().logit_scale * vision @ text.T)


def similarity(tasks: int) -> Tensor:
    """Tasks 0 and the last are alike, the others are not."""
    matrix = torch.eye(tasks)
    matrix[0, -1] = matrix[-1, 0] = 0.9
    return matrix


def loss_term(method: StreamMethod, term: str) -> Tensor:
    if term == "contrastive":
        return retrieval_loss(method)
    return method.regularisers(similarity(method.current + 1))[term]


def test_prompt_equals_its_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(rows, 3, generator=generator) for rows in (2, 4, 5))
    slow = torch.zeros(2, 4, 5)
    for k in range(3):
        slow += a[:, None, None, k] * b[None, :, None, k] * c[None, None, :, k] / 3
    torch.testing.assert_close(low_rank_prompt(a, b, c), slow)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("depth", [None, 2])
def test_parameters_a_task(rank: int, depth: int | None) -> None:
    """The README promises r(L + 2N + Dv + Dt) numbers a task."""
    method = at_task(0, rank=rank, prompt_depth=depth)
    shape = backbone().shape
    expected = rank * ((depth or LAYERS) + 2 * 4 + shape.vision_width + shape.text_width)
    assert method.parameters_per_task() == expected
    assert set(method.task_parameters(0)) == FACTORS


@pytest.mark.parametrize("modality", MODALITIES)
def test_prompt_covers_every_layer_by_default(modality: Modality) -> None:
    prompt = own(at_task(0), 0).prompt(modality)
    assert prompt.shape == (LAYERS, 4, backbone().shape.width(modality))


@pytest.mark.parametrize(("depth", "vision", "text"), [(None, 5, 3), (4, 4, 3), (2, 2, 2)])
def test_each_tower_has_its_own_depth(depth: int | None, vision: int, text: int) -> None:
    """Prompts that stop at the shallower tower's depth leave the other's last layers unprompted."""
    shape = dataclasses.replace(backbone().shape, vision_layers=5, text_layers=3)
    section = {"name": "lpi", **SIZES, "prompt_depth": depth}
    method = build_method(section, RetrievalSetting(shape, 0))
    method.begin_task(1, backbone())
    assert own(method, 1).prompt("vision").shape[0] == vision
    assert own(method, 1).prompt("text").shape[0] == text
    torch.autograd.backward(list(method.regularisers(similarity(2)).values()))
    for name, factor in method.task_parameters(1).items():
        assert factor.grad is not None, name
        assert factor.grad.isfinite().all(), name


def test_only_the_current_task_trains() -> None:
    """An old task's factors that moved would be forgetting; so would a moved backbone."""
    method, before = at_task(2), weights()
    old = [{n: p.clone() for n, p in method.task_parameters(t).items()} for t in (0, 1)]
    for task in range(3):
        flags = {p.requires_grad for p in method.task_parameters(task).values()}
        assert flags == {task == 2}
    start = {n: p.clone() for n, p in method.task_parameters(2).items()}
    optimiser = torch.optim.SGD(method.parameters(), lr=0.1, weight_decay=0.1)
    torch.autograd.backward([loss_term(method, t) for t in ("contrastive", "task_contrast")])
    optimiser.step()
    for task in (0, 1):
        for name, value in method.task_parameters(task).items():
            assert torch.equal(value, old[task][name]), f"task {task}: {name} moved"
    for name, value in method.task_parameters(2).items():
        assert not torch.equal(value, start[name]), f"{name} did not learn"
    assert all(torch.equal(value, before[name]) for name, value in weights().items())


@pytest.mark.parametrize("term", ["contrastive", "layer_alignment", "task_contrast"])
def test_every_loss_term_teaches_every_factor(term: str) -> None:
    """A term without gradient costs time, shows a figure, and teaches nothing."""
    method = at_task(2)
    torch.autograd.backward(loss_term(method, term))
    for name, factor in method.task_parameters(2).items():
        assert factor.grad is not None, name
        assert factor.grad.abs().max() > 1e-7, f"{term} sends no gradient to {name}"
    for task in (0, 1):
        assert all(p.grad is None for p in method.task_parameters(task).values())


def test_default_sizes_get_gradient_from_task_contrast_too() -> None:
    """With published sizes, not only with small ones."""
    method = build("lpi", {"prompt_length": 8})
    method.begin_task(1, backbone())
    torch.autograd.backward(method.regularisers(torch.eye(2))["task_contrast"])
    for name, factor in method.task_parameters(1).items():
        assert factor.grad is not None, name
        assert factor.grad.abs().max() > 0, name


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_published_task_contrast_sends_nothing(sign: float) -> None:
    """What the released code computes once two tasks' prompts are alike, or opposite."""
    method = at_task(1, **RELEASED)
    with torch.no_grad():
        for name, factor in method.task_parameters(1).items():
            factor.mul_(0.1).add_(method.task_parameters(0)[name])
        method.task_parameters(1)["layer"].mul_(sign)
    torch.autograd.backward(method.regularisers(torch.eye(2))["task_contrast"])
    for name, factor in method.task_parameters(1).items():
        assert factor.grad is not None, name
        assert torch.equal(factor.grad, torch.zeros_like(factor)), name


def test_published_task_contrast_without_negatives_is_no_nan() -> None:
    """As released, two tasks that resemble each other would end the run in NaN."""
    method = at_task(1, **RELEASED)
    torch.autograd.backward(method.regularisers(torch.ones(2, 2))["task_contrast"])
    for name, factor in method.task_parameters(1).items():
        assert factor.grad is not None, name
        assert factor.grad.isfinite().all(), name


def contrast_gradient(section: Mapping[str, Any]) -> Tensor:
    """Of two tasks whose prompts are much alike, on the layer factor of the second."""
    method = at_task(1, **SIZES | {"task_contrast": section["task_contrast"]})
    with torch.no_grad():
        for name, factor in method.task_parameters(1).items():
            factor.mul_(0.1).add_(method.task_parameters(0)[name])
    torch.autograd.backward(method.regularisers(torch.eye(2))["task_contrast"])
    gradient = method.task_parameters(1)["layer"].grad
    assert gradient is not None
    return gradient


def test_a_new_run_s_task_contrast_teaches_where_the_released_one_does_not() -> None:
    """Whether the term helps cannot be told by one that has no gradient."""
    assert contrast_gradient(released("lpi")).norm() == 0
    assert contrast_gradient(compose(["method=lpi"]).method).norm() > 1e-3


def test_which_tasks_attract_is_what_the_loss_is_told() -> None:
    """The report shows pairs: they must be those that the contrast pulls together."""
    alike = torch.tensor([[1.0, 0.9, 0.5], [0.9, 1.0, 0.2], [0.5, 0.2, 1.0]])
    for section, expected in (
        ({"threshold": 0.4}, [True, False, True]),
        ({"threshold": 0.6}, [False, False, True]),
        ({"threshold_quantile": 0.0}, [True, False, True]),
    ):
        method = at_task(2, task_contrast=section)
        pairs = method.attracts(alike)
        assert pairs is not None
        assert pairs[2].tolist() == expected
        loss = method.regularisers(alike)["task_contrast"]
        told = at_task(2).regularisers(torch.where(pairs, 1.0, -1.0))["task_contrast"]
        torch.testing.assert_close(loss, told)
    assert at_task(2, task_contrast={"weight": 0.0}).attracts(alike) is None


def test_features_are_centred_if_asked() -> None:
    assert at_task(0, task_contrast={"centre": True}).similarity_centred
    assert not at_task(0).similarity_centred, "as runs of earlier versions, which say nothing"


def test_task_contrast_begins_with_the_second_task() -> None:
    assert set(at_task(0).regularisers(torch.ones(1, 1))) == {"layer_alignment"}
    assert set(at_task(1).regularisers(torch.eye(2))) == {"layer_alignment", "task_contrast"}
    assert set(at_task(1).regularisers(None)) == {"layer_alignment"}


def test_weight_zero_leaves_a_term_out() -> None:
    method = at_task(1, layer_alignment={"weight": 0.0}, task_contrast={"weight": 0.0})
    assert method.regularisers(torch.eye(2)) == {}


@pytest.mark.parametrize("term", ["layer_alignment", "task_contrast"])
def test_each_term_is_switched_off_by_itself(term: str) -> None:
    """An ablation of one loss must leave the other as it was."""
    off: dict[str, Any] = {term: {"weight": 0.0}}
    both, without = at_task(1), at_task(1, **off)
    terms, left = both.regularisers(torch.eye(2)), without.regularisers(torch.eye(2))
    assert set(left) == set(terms) - {term}
    assert all(torch.equal(left[name], terms[name]) for name in left)


@pytest.mark.parametrize(
    ("term", "setting"),
    [
        ("layer_alignment", {"temperature": 0.5}),
        ("layer_alignment", {"similarity": "dot"}),
        ("task_contrast", {"temperature": 0.5}),
        ("task_contrast", {"threshold": 0.6}),
        ("task_contrast", {"threshold_quantile": 0.5}),
        ("task_contrast", {"sigmoid": "single"}),
    ],
)
def test_settings_of_a_term_reach_it_alone(term: str, setting: dict[str, Any]) -> None:
    """A temperature that nobody reads would be an ablation of nothing."""
    similar = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    usual = at_task(1).regularisers(similar)
    section: dict[str, Any] = {term: setting}
    changed = at_task(1, **section).regularisers(similar)
    for name, value in usual.items():
        assert torch.equal(value, changed[name]) == (name != term), name


def test_weights_scale_their_terms() -> None:
    one = at_task(1)
    other = at_task(1, layer_alignment={"weight": 0.3}, task_contrast={"weight": 0.2})
    a, b = one.regularisers(torch.eye(2)), other.regularisers(torch.eye(2))
    torch.testing.assert_close(3 * a["layer_alignment"], b["layer_alignment"])
    torch.testing.assert_close(2 * a["task_contrast"], b["task_contrast"])


def start(method: StreamMethod, task: int) -> Tensor:
    method.begin_task(task, backbone())
    return torch.cat([p.detach().flatten() for p in method.task_parameters(task).values()])


def test_factors_follow_seed_and_task() -> None:
    """Same seed, same figures; another seed must be another draw, for each task if asked."""
    assert torch.equal(start(lpi(seed=1), 1), start(lpi(seed=1), 1))
    others = [start(lpi(seed=seed), task) for seed in (0, 1, 2) for task in (0, 1, 2)]
    for i, one in enumerate(others):
        assert not any(torch.equal(one, other) for other in others[:i])


def test_tasks_start_alike_unless_each_has_its_own_draw() -> None:
    """Random differences between tasks make their texts incomparable in one gallery."""
    method = lpi(task_start="same")
    assert torch.equal(start(method, 0), start(method, 3))


def test_factors_do_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(1)
    first = start(lpi(), 0)
    torch.manual_seed(2)
    assert torch.equal(start(lpi(), 0), first)


def test_published_builds_nine_layers_enters_one_and_ignores_the_seed() -> None:
    """The oddities of the released code, which its figures depend on."""
    method = at_task(0, **RELEASED)
    for modality in MODALITIES:
        assert own(method, 0).full_prompt(modality).shape[0] == 9
        assert own(method, 0).prompt(modality).shape[0] == 1
    assert torch.equal(start(lpi(seed=5, **RELEASED), 1), start(lpi(seed=8, **RELEASED), 1))
    assert not torch.equal(start(lpi(**RELEASED), 0), start(lpi(**RELEASED), 1))


def test_released_alignment_sees_all_nine_layers() -> None:
    """With one layer there is nothing to tell apart: the term would be 0."""
    method = at_task(0, **RELEASED)
    assert [run.shape[0] for run in own(method, 0).runs("text")] == [9]
    assert float(method.regularisers(None)["layer_alignment"].detach()) > 0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"prompt_depth": LAYERS + 1}, rf"method\.prompt_depth={LAYERS + 1}.*use 1\.\.{LAYERS}"),
        ({"prompt_depth": 0}, r"method\.prompt_depth=0 does not fit"),
        ({"constructed_depth": 1}, r"method\.constructed_depth=1 is fewer than the 3 layers"),
        ({"rank": 0}, r"method: rank=0 must be at least 1"),
        ({"prompt_length": 0}, r"method: prompt_length=0"),
        ({"init_std": 0.0}, r"method: init_std=0\.0 must be above 0"),
        ({"rnak": 3}, r"unknown key method\.rnak; did you mean method\.rank\?"),
        ({"task_contrast": {"treshold": 1}}, r"method\.task_contrast\.treshold"),
        ({"task_contrast": {"temperature": 0.0}}, "temperatures must be above 0"),
        ({"task_contrast": {"threshold_quantile": 1.5}}, r"threshold_quantile=1\.5 must be from 0"),
        ({"layer_alignment": {"similarity": "l2"}}, r"similarity='l2' is not one of: cosine, dot"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lpi(**section)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("section", [{}, RELEASED], ids=["corrected", "released"])
def test_each_sample_gets_its_own_task_s_prompt(
    modality: Modality, section: dict[str, Any]
) -> None:
    """Chosen per batch, a prompt would make figures depend on which samples come together."""
    method = at_task(2, **section)
    inputs = images() if modality == "vision" else tokens(method)
    tasks = torch.tensor([2, 0, 2, 1, 0])
    mixed = method.encode(backbone(), modality, inputs, tasks)
    for i in range(len(tasks)):
        alone = method.encode(backbone(), modality, inputs[i : i + 1], tasks[i : i + 1])
        torch.testing.assert_close(mixed[i : i + 1], alone, rtol=1e-5, atol=1e-5)
    swapped = method.encode(backbone(), modality, inputs, tasks.roll(1))
    assert not torch.allclose(mixed[0], swapped[0], atol=1e-4)

"""The two towers' prompts take in each other, and features still depend on one input alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality, unit
from system.errors import AdapterMismatchError, ConfigError
from system.methods.interaction import (
    OTHER,
    InteractionConfig,
    LowRankInteraction,
    low_rank_map,
    matched,
)
from system.methods.losses import contrastive_loss
from system.methods.sharing import StreamMethod
from tests.methods.method_parts import LAYERS, TEXTS, backbone, build, images, tokens

WIDTHS: dict[Modality, int] = {"vision": 5, "text": 4}
ON = {"depth": None, "rank": 2}
FIRST_LAYER = {"prompt_depth": 1, "constructed_depth": 9}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lpi(task: int = 0, **section: Any) -> StreamMethod:
    sizes = {"rank": 3, "prompt_length": 4, "interaction": ON}
    method = build("lpi", sizes | section)
    method.begin_task(task, backbone())
    return method


def features(method: StreamMethod, modality: Modality, inputs: Tensor) -> Tensor:
    return method.encode(backbone(), modality, inputs, torch.full((len(inputs),), method.current))


def entered(method: StreamMethod, modality: Modality) -> Tensor:
    """The first task's prompt as it enters."""
    prompt = method.of(0).prompt(modality)
    assert prompt is not None
    return prompt


def inputs_of(method: StreamMethod, modality: Modality) -> Tensor:
    return images() if modality == "vision" else tokens(method)


def test_map_equals_the_product_of_its_factors() -> None:
    layer, source, target = drawn(3, 2), drawn(6, 2, seed=1), drawn(4, 2, seed=2)
    x = drawn(3, 7, 5, seed=3)
    full = torch.einsum("lk,ik,ok->lio", layer, source, target) / 2  # (L, Din + 1, Dout)
    expected = x @ full[:, :-1] + full[:, -1:]
    torch.testing.assert_close(low_rank_map(x, layer, source, target), expected)


@pytest.mark.parametrize("positions", [1, 2, 3, 8])
@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_positions_of_towers_of_other_lengths_are_matched_by_means(
    positions: int, length: int
) -> None:
    """A position that is never read would take in nothing and send nothing."""
    share = matched(torch.eye(positions), length)  # (length, positions)
    assert share.shape == (length, positions)
    torch.testing.assert_close(share.sum(dim=1), torch.ones(length))
    assert (share.sum(dim=0) > 0).all()
    if positions == length:
        assert torch.equal(share, torch.eye(length))


def test_both_sides_read_what_the_other_was_before() -> None:
    """In turn, the second side would read the first one's own words again."""
    config = InteractionConfig(rank=2, mix=0.3)
    generator = torch.Generator().manual_seed(1)
    module = LowRankInteraction(config, 2, WIDTHS, std=1.0, scale=2.0, generator=generator)
    prompts = {m: drawn(2, 3, WIDTHS[m], seed=i) for i, m in enumerate(MODALITIES)}
    found = module(prompts)
    for m in MODALITIES:
        factors = (module.layer[m], module.source[m], module.target[m])
        mixed = 0.7 * prompts[m] + 0.3 * low_rank_map(prompts[OTHER[m]], *factors)
        centred = mixed - mixed.mean(dim=-1, keepdim=True)
        expected = 2 * centred / (mixed.var(dim=-1, keepdim=True, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(found[m], expected)


def test_off_unless_asked_for_and_prompts_start_the_same() -> None:
    """On or off must be the only difference of an ablation; older adapters know no interaction."""
    off, on = lpi(interaction={}), lpi()
    own = off.task_parameters(0)
    assert not [name for name in own if "interaction" in name]
    for name, value in own.items():
        assert torch.equal(value, on.task_parameters(0)[name])


@pytest.mark.parametrize("depth", [1, 2, None])
def test_parameters_a_task(depth: int | None) -> None:
    """The cost that the docstring and the report name."""
    off, on = lpi(interaction={}), lpi(interaction={"depth": depth, "rank": 2})
    shape = backbone().shape
    widths, layers = shape.vision_width + shape.text_width, depth or LAYERS
    cost = 2 * 2 * (layers + widths + 1) + 2 * widths
    assert on.parameters_per_task() == off.parameters_per_task() + cost


@pytest.mark.parametrize("text_length", [None, 1])
def test_every_factor_learns_from_retrieval(text_length: int | None) -> None:
    """A factor without gradient would cost memory and teach nothing."""
    method = lpi(1, text_prompt_length=text_length)
    vision, text = (unit(features(method, m, inputs_of(method, m))) for m in MODALITIES)
    torch.autograd.backward(contrastive_loss(backbone().logit_scale * vision @ text.T))
    for name, parameter in method.task_parameters(1).items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-7, f"no gradient reaches {name}"
    assert all(p.grad is None and not p.requires_grad for p in method.task_parameters(0).values())


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_tower_s_prompts_depend_on_the_other_tower_s(modality: Modality) -> None:
    method = lpi()
    before = features(method, modality, inputs_of(method, modality))
    with torch.no_grad():
        method.task_parameters(0)[f"feature.{OTHER[modality]}"].add_(drawn(1, 3))
    after = features(method, modality, inputs_of(method, modality))
    assert not torch.allclose(before, after, atol=1e-4)


def test_a_feature_does_not_depend_on_what_it_is_compared_with() -> None:
    """An image that saw its own caption would find it: recall would be a leak."""
    method = lpi(text_prompt_length=1)
    alone = features(method, "vision", images()[:1])
    features(method, "text", backbone().tokenize(["the dog"], 1))
    torch.testing.assert_close(alone, features(method, "vision", images()[:1]), rtol=0, atol=0)
    among = features(method, "vision", images())[:1]
    torch.testing.assert_close(alone, among, rtol=1e-5, atol=1e-5)
    ids = tokens(method)
    one, all_texts = features(method, "text", ids[2:3]), features(method, "text", ids)
    torch.testing.assert_close(one, all_texts[2:3], rtol=1e-5, atol=1e-5)
    assert len(all_texts) == len(TEXTS)


@pytest.mark.parametrize("modality", MODALITIES)
def test_layers_interact_on_their_own_up_to_the_depth(modality: Modality) -> None:
    """Carried over, a prompt would be added to tokens that hold it already."""
    off, on = lpi(interaction={}), lpi(interaction={"depth": 2})
    plain, before = entered(off, modality), entered(on, modality).detach().clone()
    assert torch.equal(before[2:], plain[2:])
    assert not torch.allclose(before[:2], plain[:2], atol=1e-3)
    with torch.no_grad():
        on.task_parameters(0)["layer"][0].mul_(-2)
    after = entered(on, modality)
    assert not torch.allclose(after[0], before[0], atol=1e-3)
    assert torch.equal(after[1:], before[1:])


@pytest.mark.parametrize("modality", MODALITIES)
def test_prompts_leave_about_as_large_as_they_came(modality: Modality) -> None:
    """A layer norm of weight 1 would start training with prompts many times too large."""
    ratio = entered(lpi(), modality).std() / entered(lpi(interaction={}), modality).std()
    assert 0.4 < ratio < 2.5


def test_regularisers_see_the_prompts_before_they_interact() -> None:
    off, on = lpi(1, interaction={}), lpi(1)
    for name, term in off.regularisers(torch.eye(2)).items():
        assert torch.equal(term, on.regularisers(torch.eye(2))[name]), name


@pytest.mark.parametrize("section", [{}, FIRST_LAYER], ids=["every layer", "first layer"])
def test_loaded_interaction_gives_the_same_features(section: dict[str, Any]) -> None:
    """What a run learned must survive its end, and fit no method without interaction."""
    source, target = lpi(1, **section), lpi(0, **section)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.01)
    for task in (0, 1):
        target.load_task(task, dict(source.task_parameters(task)), backbone())
    target.begin_task(1, backbone())
    for modality in MODALITIES:
        inputs = inputs_of(source, modality)
        assert torch.equal(features(source, modality, inputs), features(target, modality, inputs))
    other = lpi(0, **section | {"interaction": {}})
    with pytest.raises(AdapterMismatchError, match=r"holds interaction\."):
        other.load_task(0, dict(source.task_parameters(0)), backbone())


def test_prompts_interact_where_they_enter() -> None:
    """In layers without an entering prompt an interaction would train nothing."""
    parameters = lpi(**FIRST_LAYER).task_parameters(0)
    assert parameters["interaction.layer.text"].shape == (1, 2)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"depth": LAYERS + 1}, rf"interaction\.depth={LAYERS + 1} does not fit.*to {LAYERS}, or"),
        ({"depth": -1}, r"method\.interaction: depth=-1 must be at least 0, or null"),
        ({"rank": 0}, r"method\.interaction: rank=0 must be at least 1"),
        ({"mix": 0.0}, r"method\.interaction: mix=0\.0 must be above 0.*depth=0 is off"),
        ({"mix": 1.5}, r"mix=1\.5 must be above 0 and at most 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lpi(interaction=section)

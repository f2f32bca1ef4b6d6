"""LPI's prompts added to a grounder's tokens, which interact: the released form on grounders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from system.backbones.dual_encoder import MODALITIES
from system.config.compose import compose
from system.errors import ConfigError
from system.grounders.entries import Added
from system.grounders.glip.glip import Glip
from system.grounders.grounder import GrounderShape
from system.methods.base import GroundingSetting, RetrievalSetting, build_task_method
from system.methods.prompts.lpi import GroundingLowRank, LowRankPrompts
from tests.grounders.small_glip import some_batch
from tests.methods.method_parts import backbone

#: Swin-T and BERT at the 448 pixels of the released grounding code.
FULL = GrounderShape(
    vision_widths=(*(96,) * 2, *(192,) * 2, *(384,) * 6, *(768,) * 2),
    text_widths=(768,) * 12,
    pyramid_widths=(192, 384, 768),
    image_size=448,
    context_length=256,
    feature_width=256,
    vision_sides=(*(112,) * 2, *(56,) * 2, *(28,) * 6, *(14,) * 2),
)
TOKENS: dict[str, Any] = {"entry": "add", "interaction": {"operands": "tokens", "depth": None}}


def new_defaults() -> dict[str, Any]:
    """The method's section of a new run."""
    return dict(compose(["method=lpi"]).method)


def on_grounder(shape: GrounderShape, task: int = 0, **section: Any) -> GroundingLowRank:
    method = build_task_method({"name": "lpi"} | section, GroundingSetting(shape, 5, task=task))
    assert isinstance(method, GroundingLowRank)
    return method


def added(method: GroundingLowRank) -> Added:
    unused: Any = None
    found = method.entries(unused, unused, None).added
    assert found is not None
    return found


def count(method: GroundingLowRank) -> int:
    return sum(p.numel() for p in method.parameters())


def test_parameters_per_task_at_the_released_sizes() -> None:
    """The paper's table counts them; inserted prompts would have 21,784."""
    sizes = new_defaults() | {"prompt_depth": 9}
    with_it = on_grounder(FULL, **sizes)
    assert count(with_it) == 12_364
    off = sizes | {"interaction": {"depth": 0}}
    assert count(on_grounder(FULL, **off)) == 4 * (9 + 16 + 16 + 96 + 768) == 3_620
    entries = added(with_it)
    assert [prompt.shape for prompt in entries.vision] == [
        *[(1, 16, 96)] * 2,
        *[(1, 8, 192)] * 2,
        *[(1, 4, 384)] * 5,
    ]
    assert [prompt.shape for prompt in entries.text] == [(1, 16, 768)] * 9
    assert entries.exchanging == range(1, 9)


def test_one_yaml_means_tokens_on_a_grounder_and_no_interaction_in_retrieval() -> None:
    """The released retrieval code has no interaction, the grounding code has one of tokens."""
    retrieval = build_task_method(new_defaults(), RetrievalSetting(backbone().shape, 0))
    assert isinstance(retrieval, LowRankPrompts)
    assert retrieval.factors.interaction is None
    grounder = on_grounder(FULL, **new_defaults())
    assert added(grounder).exchanging == range(1, 12)
    inserted = on_grounder(FULL, **new_defaults() | {"entry": "insert"})
    assert inserted.factors.interaction is None


def test_prompts_interact_before_they_are_added_if_asked() -> None:
    both: dict[str, Any] = {"entry": "add", "prompt_length": 16, "prompt_depth": 4}
    prompts = on_grounder(FULL, **both, interaction={"operands": "prompts", "depth": 2})
    plain = on_grounder(FULL, **both, interaction={"operands": "prompts", "depth": 0})
    assert added(prompts).exchanging == range(0)
    for layer in range(4):
        same = torch.equal(added(prompts).vision[layer], added(plain).vision[layer])
        assert same == (layer >= 2)


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, 4])
def test_tokens_take_in_each_other_by_the_layers_own_map(layer: int) -> None:
    """Visual tokens of 384 are read as four of 96; both sides read what the other was before."""
    method = on_grounder(FULL, **TOKENS)
    module = method.factors.interaction
    assert module is not None
    generator = torch.Generator().manual_seed(1)
    for weight in (*module.norm_weight.values(), *module.norm_bias.values()):
        weight.copy_(torch.randn(weight.shape, generator=generator))
    places, width = (4, 384) if layer == 4 else (16, 96)
    vision = torch.randn(2, places, width, generator=generator)
    text = torch.randn(2, 16, 768, generator=generator)
    found_vision, found_text = method.exchange(layer, vision, text)
    hidden = {"vision": vision.reshape(2, 16, 96), "text": text}
    found = {"vision": found_vision.reshape(2, 16, 96), "text": found_text}
    for m in MODALITIES:
        other = hidden["text" if m == "vision" else "vision"]
        whole = torch.einsum(
            "k,ik,ok->io", module.layer[m][layer], module.source[m], module.target[m]
        )
        message = other @ whole[:-1] / 4 + whole[-1] / 4
        expected = layer_norm(
            0.9 * hidden[m] + 0.1 * message,
            hidden[m].shape[-1:],
            module.norm_weight[m],
            module.norm_bias[m],
        )
        torch.testing.assert_close(found[m], expected, rtol=1e-4, atol=1e-4)


def test_every_factor_learns_but_the_rows_of_layers_that_do_not_interact(small: Glip) -> None:
    """As released there is a row for each layer; a factor without gradient elsewhere is a mistake.

    The small grounder has two text layers, so that layer 1 alone interacts.
    """
    method = on_grounder(small.shape, rank=3, prompt_length=4, text_prompt_length=2, **TOKENS)
    batch = some_batch(small)
    terms = small.losses(batch, method.entries(small, batch, None))
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        rows: Tensor = (
            parameter.grad.abs().flatten(1).sum(1) if parameter.ndim > 1 else (parameter.grad.abs())
        )
        if name.startswith("factors.interaction.layer"):
            assert (rows > 0).tolist() == [False, True], name
        else:
            assert rows.sum() > 0, name


@torch.no_grad()
def test_with_and_without_interaction_are_told_apart_by_the_grounder(small: Glip) -> None:
    """An interaction that changes no box would be a row of the table about nothing."""
    batch = some_batch(small)
    sizes: dict[str, Any] = {"rank": 3, "prompt_length": 4, "text_prompt_length": 2}
    boxes = []
    for section in (TOKENS, TOKENS | {"interaction": {"depth": 0}}):
        method = on_grounder(small.shape, **sizes, **section)
        boxes.append(small.dense(batch, method.entries(small, batch, None)).boxes)
    assert not torch.allclose(boxes[0], boxes[1], atol=1e-4)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"entry": "add", "prompt_length": 6}, r"prompt_length=6 .*use a multiple of 4"),
        ({"entry": "add", "prompt_length": 2048}, r"takes 32 x 64 places of block 1, which has 1"),
        ({"entry": "add", "prompt_length": 8, "text_prompt_length": 300}, "at most 256 tokens"),
        ({"entry": "insert", "interaction": {"operands": "tokens"}}, r"needs method\.entry=add"),
        (
            {"entry": "add", "prompt_depth": 9, "interaction": {"operands": "tokens", "depth": 9}},
            r"interaction\.depth=9 does not fit.*9 layers.*tokens can interact in 8",
        ),
        ({"entry": "beside"}, "entry='beside' is not one of: auto, add, insert"),
        ({"interaction": {"depth": "none"}}, r"method\.interaction\.depth"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_trained(
    section: dict[str, Any], named: str
) -> None:
    small = replace(FULL, vision_sides=(16,) * 12)
    shape = small if section.get("prompt_length", 0) > 1000 else FULL
    with pytest.raises(ConfigError, match=named):
        on_grounder(shape, **section)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        (
            {"interaction": {"operands": "tokens", "depth": 1}},
            "a dual encoder's feature must not depend on what it is compared with",
        ),
        ({"entry": "add"}, r"method\.entry=add is for a grounder"),
    ],
)
def test_a_dual_encoder_has_no_tokens_that_interact(section: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build_task_method({"name": "lpi"} | section, RetrievalSetting(backbone().shape, 0))

"""LPI on a grounder, whose layers of several widths share each tower's one feature factor."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from system.grounders.entries import Entries
from system.grounders.glip.glip import Glip
from system.grounders.grounder import GrounderShape
from system.methods.base import GroundingSetting, build_task_method
from system.methods.interaction import OTHER
from system.methods.losses import layer_alignment, task_contrast
from system.methods.low_rank import LowRankConfig
from system.methods.prompts.lpi import GroundingLowRank
from tests.grounders.small_glip import some_batch

#: On a grounder layers of several widths share the factors.
SHAPE = GrounderShape(
    vision_widths=(4, 4, 8, 16),
    text_widths=(6, 6, 6),
    pyramid_widths=(8, 16),
    image_size=32,
    context_length=10,
    feature_width=5,
)
BOTH: dict[str, Any] = {"interaction": {"depth": None, "rank": 2, "mix": 0.3}}


def on_grounder(shape: GrounderShape = SHAPE, task: int = 0, **changes: Any) -> GroundingLowRank:
    section = {"name": "lpi", "rank": 3, "prompt_length": 2} | changes
    method = build_task_method(section, GroundingSetting(shape, 5, task=task))
    assert isinstance(method, GroundingLowRank)
    return method


def at_place(task: int, **changes: Any) -> GroundingLowRank:
    method = on_grounder(task=task, **changes)
    method.begin_task(task, torch.nn.Identity())
    return method


def naive(method: GroundingLowRank, modality: Modality) -> list[Tensor]:
    """Number by number: layer l takes the first d features of the tower's one factor."""
    factors, rank = method.factors, method.config.rank
    position, feature = factors.position[modality], factors.feature[modality]
    prompts = []
    for layer, width in enumerate(method.widths[modality]):
        prompt = torch.zeros(len(position), width)
        for n in range(len(position)):
            for d in range(width):
                for k in range(rank):
                    prompt[n, d] += factors.layer[layer, k] * position[n, k] * feature[d, k]
        prompts.append(prompt / rank)
    return prompts


def interacted(
    method: GroundingLowRank, modality: Modality, own: Mapping[Modality, list[Tensor]], layer: int
) -> Tensor:
    """One layer's interaction with the whole map of that layer written out."""
    module = method.factors.interaction
    assert module is not None
    mine, other = own[modality][layer], own[OTHER[modality]][layer]
    source, target = module.source[modality], module.target[modality]
    whole = torch.einsum("k,ik,ok->io", module.layer[modality][layer], source, target)
    whole = whole / source.shape[1]  # (Din + 1, Dout), the last row is the bias
    message = other @ whole[: other.shape[1], : mine.shape[1]] + whole[-1, : mine.shape[1]]
    return layer_norm(
        (1 - module.mix) * mine + module.mix * message,
        (mine.shape[1],),
        module.norm_weight[modality][: mine.shape[1]],
        module.norm_bias[modality][: mine.shape[1]],
    )


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert [f.shape for f in found] == [e.shape for e in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_layers_of_several_widths_take_the_first_features_of_one_factor() -> None:
    method = on_grounder()
    for modality in MODALITIES:
        same(method.prompts()[modality], naive(method, modality))


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_interaction_of_layers_of_several_widths(depth: int) -> None:
    """Widths 4 with 6, and 8 with 6: the maps take the first rows and columns."""
    method = on_grounder(interaction={"depth": depth, "rank": 2, "mix": 0.3})
    own = {m: naive(method, m) for m in MODALITIES}
    for modality in MODALITIES:
        expected = [interacted(method, modality, own, layer) for layer in range(depth)]
        same(method.prompts()[modality], expected + own[modality][depth:])


@torch.no_grad()
def test_interaction_changes_nothing_before_it() -> None:
    """The two are compared as an ablation: they have to start from the same prompts."""
    with_it, without = on_grounder(**BOTH), on_grounder()
    for modality in MODALITIES:
        same(naive(with_it, modality), naive(without, modality))
        assert not torch.equal(with_it.prompts()[modality][0], without.prompts()[modality][0])


@pytest.mark.parametrize("changes", [{}, BOTH])
def test_every_factor_learns_through_either_towers_prompts(changes: dict[str, Any]) -> None:
    """A factor or map that no prompt reaches would be counted and never used."""
    method = on_grounder(**changes)
    generator = torch.Generator().manual_seed(0)
    loss = torch.zeros(())
    for prompts in method.prompts().values():
        for prompt in prompts:
            loss = loss + (prompt * torch.randn(prompt.shape, generator=generator)).sum()
    torch.autograd.backward(loss)
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def count(method: GroundingLowRank) -> int:
    return sum(p.numel() for p in method.parameters())


def test_a_task_trains_what_the_formula_says() -> None:
    factors = 3 * (4 + 2 + 2 + 16 + 6)
    assert count(on_grounder()) == factors
    maps = 2 * 2 * (3 + 16 + 6 + 1) + 2 * (16 + 6)
    assert count(on_grounder(**BOTH)) == factors + maps


def test_a_list_of_weights_is_read_at_the_place_of_the_task() -> None:
    schedule: dict[str, Any] = {"layer_alignment": {"weight": [0.1, 0.4, 0.0]}}
    usual = on_grounder().regularisers()["layer_alignment"]
    for task, times in ((0, 1), (1, 4)):
        terms = at_place(task, **schedule).regularisers([on_grounder()] * task)
        torch.testing.assert_close(terms["layer_alignment"], times * usual)
    assert at_place(2, **schedule).regularisers([on_grounder()] * 2) == {}


@torch.no_grad()
def test_the_loss_terms_are_those_of_the_prompts_before_interaction() -> None:
    """Against the published losses on what the naive twin makes; both towers have three layers."""
    config = LowRankConfig(rank=3, prompt_length=2)
    earlier, method = on_grounder(**BOTH), on_grounder(task=1, task_start="own", **BOTH)
    similarity = torch.tensor([[1.0, 0.2], [0.2, 1.0]])
    terms = method.regularisers([earlier], similarity)
    means = {
        m: torch.stack([p.mean(1, keepdim=True) for p in naive(method, m)]) for m in MODALITIES
    }
    expected = 0.1 * layer_alignment(
        means["vision"][:3], means["text"], similarity="cosine", temperature=0.01
    )
    torch.testing.assert_close(terms["layer_alignment"], expected)
    flat = {
        m: torch.stack(
            [torch.cat([p.flatten() for p in naive(one, m)]) for one in (earlier, method)]
        )
        for m in MODALITIES
    }
    contrast = config.task_contrast
    expected = 0.1 * task_contrast(
        flat["vision"],
        flat["text"],
        similarity,
        threshold=contrast.threshold,
        temperature=contrast.temperature,
        sigmoid=contrast.sigmoid,
    )
    torch.testing.assert_close(terms["task_contrast"], expected)
    assert set(method.regularisers()) == {"layer_alignment"}, "a first task has no other"


def test_earlier_tasks_get_no_gradient_from_the_contrast() -> None:
    earlier, method = on_grounder(), on_grounder(task=1, task_start="own")
    torch.autograd.backward(method.regularisers([earlier], torch.eye(2))["task_contrast"])
    assert all(p.grad is None for p in earlier.parameters())
    assert method.factors.layer.grad is not None


@torch.no_grad()
def test_tasks_start_alike_or_each_from_its_own_draw() -> None:
    first, second = on_grounder(task=0), on_grounder(task=1)
    assert torch.equal(first.factors.layer, second.factors.layer)
    own = on_grounder(task=1, task_start="own")
    assert not torch.equal(first.factors.layer, own.factors.layer)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompt_depth": 5}, "prompt_depth=5.*1..4"),
        ({"interaction": {"depth": 4}}, "interaction.depth=4.*3 layers"),
        ({"ranks": 2}, "did you mean method.rank"),
    ],
)
def test_what_does_not_fit_the_grounder_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        on_grounder(**changes)


def test_one_prompt_a_layer_enters(small: Glip) -> None:
    method = on_grounder(small.shape)
    entries: Entries = method.entries(small, some_batch(small), None)
    assert [p.shape[2] for p in entries.vision] == list(small.shape.vision_widths)
    assert [p.shape[2] for p in entries.text] == list(small.shape.text_widths)

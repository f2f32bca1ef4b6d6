"""Methods on a grounder: what they train, where it enters, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from system.errors import ConfigError
from system.grounders.grounder import Entries, Grounder, GrounderShape, GroundingBatch
from system.grounders.grounding_dino import load_grounding_dino
from system.methods.base import (
    GroundingSetting,
    Method,
    build_task_method,
    method_class,
    methods_on,
)
from tests.grounders.small_grounding_dino import IMAGE_SIZE, write_small_grounding_dino

# method -> its settings and the numbers it trains on the small grounder: blocks of 16, 16, 32, 64,
# three text layers of 32, levels of 32 and 64
METHODS: dict[str, tuple[dict[str, Any], int]] = {
    "zero_shot": ({}, 0),
    "linear_probing": ({}, 32 * 33 + 64 * 65 + 32 * 33),
    "vpt": ({"prompt_length": 2}, 2 * (16 + 16 + 32 + 64)),
    "coop": ({"context_length": 3}, 3 * 32),
    "cocoop": ({"context_length": 3}, 3 * 32 + 6 * 97 + 32 * 7),
    "s_prompts": ({"prompt_length": 2, "text_prompt_length": 3}, 2 * 16 + 3 * 32),
    "maple": ({"prompt_length": 2}, 3 * 2 * 32 + 33 * (16 + 16 + 32)),
    "clip_adapter": ({}, 2 * (32 * 8 + 64 * 16 + 32 * 8)),
    "fedtpg": ({"context_length": 2}, 2 * 32 + 6 * 32 * 33 + 2 * 32 + 2 * 32 * 33),
}
#: Prompts that stand out: as they start, small ones hardly change a result.
LOUD: dict[str, dict[str, Any]] = {
    "coop": {"init_std": 1.0},
    "cocoop": {"init_std": 1.0},
    "s_prompts": {"init_std": 1.0},
}
TEXTS = ["the red dog", "a disk on the left"]


@pytest.fixture(scope="module")
def grounder(tmp_path_factory: pytest.TempPathFactory) -> Grounder:
    return load_grounding_dino(str(write_small_grounding_dino(tmp_path_factory.mktemp("dino"))))


def build(name: str, shape: GrounderShape, **changes: Any) -> Method:
    settings = METHODS[name][0] | changes
    section = {"name": name, **settings}
    return build_task_method(section, GroundingSetting(shape, seed=3))


def batch(grounder: Grounder) -> GroundingBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    boxes = [torch.tensor([[0.1, 0.1, 0.6, 0.5]]), torch.tensor([[0.4, 0.3, 0.9, 0.9]])]
    return GroundingBatch(images, grounder.tokenize(TEXTS), boxes)


def loss(grounder: Grounder, method: Method) -> Tensor:
    given = batch(grounder)
    terms = grounder.losses(given, method.entries(grounder, given, None))
    return torch.stack(list(terms.values())).sum()


@torch.no_grad()
@pytest.mark.parametrize("name", ["coop", "cocoop", "s_prompts", "fedtpg"])
def test_a_longer_neighbour_changes_nothing(name: str, grounder: Grounder) -> None:
    """A context that saw padding would make figures depend on the batch."""
    method, given = build(name, grounder.shape, **LOUD.get(name, {})), batch(grounder)
    assert len(set(given.tokens.mask.sum(dim=1).tolist())) == 2
    alone = GroundingBatch(given.images[:1], grounder.tokenize(TEXTS[:1]))
    (found,) = grounder.ground(alone, method.entries(grounder, alone, None))
    beside, _ = grounder.ground(given, method.entries(grounder, given, None))
    torch.testing.assert_close(beside.scores, found.scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(beside.boxes, found.boxes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_trains_what_its_formula_says(name: str, grounder: Grounder) -> None:
    """The tables compare gains against these counts."""
    method = build(name, grounder.shape)
    assert sum(p.numel() for p in method.parameters()) == METHODS[name][1]


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"zero_shot"}))
def test_every_parameter_learns_and_the_grounder_does_not(name: str, grounder: Grounder) -> None:
    """A parameter that the loss does not reach would be counted and never used."""
    method = build(name, grounder.shape)
    torch.autograd.backward(loss(grounder, method))
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        # The bias of keys shifts all scores alike, which a softmax does not see.
        if "key_proj.bias" not in key:
            assert float(parameter.grad.abs().max()) > 0, key
    assert not any(p.requires_grad or p.grad is not None for p in grounder.parameters())


@pytest.mark.parametrize("name", ["zero_shot", "linear_probing"])
def test_untrained_it_is_the_frozen_grounder(name: str, grounder: Grounder) -> None:
    given = batch(grounder)
    method = build(name, grounder.shape)
    plain = grounder.ground(given, Entries())
    found = grounder.ground(given, method.entries(grounder, given, None))
    for before, after in zip(plain, found, strict=True):
        torch.testing.assert_close(before.scores, after.scores)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_seed_alone_decides_how_it_starts(name: str, grounder: Grounder) -> None:
    """A worker that starts at other numbers would drift away from the others."""
    first, second = build(name, grounder.shape), build(name, grounder.shape)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


def test_padding_does_not_change_a_generated_context(grounder: Grounder) -> None:
    """FedTPG must not read what another expression's length left behind."""
    method = build("fedtpg", grounder.shape)
    both = batch(grounder)
    one = GroundingBatch(both.images[:1], grounder.tokenize(TEXTS[:1]))
    together = method.entries(grounder, both, None).context
    alone = method.entries(grounder, one, None).context
    assert together is not None
    assert alone is not None
    torch.testing.assert_close(together[:1], alone)


def test_cocoop_s_context_is_of_the_sample_s_own_image(grounder: Grounder) -> None:
    """A context of the batch's mean would look like learning and be a leak."""
    method, given = build("cocoop", grounder.shape), batch(grounder)
    context = method.entries(grounder, given, None).context
    assert context is not None
    assert not torch.allclose(context[0], context[1])
    moved = context - method.get_parameter("context")
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))  # all of a context alike
    features = grounder.image_features(given.images)
    hidden = (
        features @ method.get_parameter("inner_weight").T + method.get_parameter("inner_bias")
    ).relu()
    expected = hidden @ method.get_parameter("outer_weight").T + method.get_parameter("outer_bias")
    torch.testing.assert_close(moved[:, 0], expected)


def test_cocoop_is_refused_in_retrieval_and_says_why() -> None:
    with pytest.raises(ConfigError, match=r"cocoop .*depend on the image it is compared with"):
        method_class("cocoop", "retrieval")


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("vpt", {"prompt_depth": 5}, r"prompt_depth=5.*vision tower of 4"),
        ("vpt", {"prompt_length": 0}, "prompt_length=0"),
        ("maple", {"prompt_depth": 0}, r"prompt_depth=0 must be at least 1"),
        ("maple", {"coupling": "shared"}, "coupling=shared"),
        ("fedtpg", {"heads": 5}, "heads=5"),
        ("clip_adapter", {"ratio": 0.0}, "ratio=0"),
        ("coop", {"length": 3}, "method.length"),
        ("linear_probing", {"vision": False, "text": False}, "nothing to learn"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    name: str, change: dict[str, Any], named: str, grounder: Grounder
) -> None:
    with pytest.raises(ConfigError, match=named):
        build(name, grounder.shape, **change)


def test_maple_s_first_text_prompt_starts_as_words_of_the_grounder(grounder: Grounder) -> None:
    """They stand in for what enters the first layer: with positions, and without the end token."""
    method = build("maple", grounder.shape, start="words", prompt_length=1, prompt_depth=9)
    drawn = [
        prompt.detach().clone() for prompt in method.entries(grounder, batch(grounder), None).text
    ]
    method.begin_task(0, grounder)
    started = method.entries(grounder, batch(grounder), None).text
    tokens = grounder.tokenize(["a photo of a"])
    assert torch.equal(started[0][0], grounder.embed_text(tokens)[0, 1:2])
    assert not torch.equal(started[0], drawn[0])
    assert all(torch.equal(a, b) for a, b in zip(started[1:], drawn[1:], strict=True))


def test_every_method_on_a_grounder_has_its_yaml() -> None:
    """`method=NAME` has to find what the registry knows."""
    folder = Path(__file__).parents[2] / "configs" / "method"
    assert set(METHODS) <= set(methods_on("grounding"))
    for name in METHODS:
        assert (folder / f"{name}.yaml").is_file(), name

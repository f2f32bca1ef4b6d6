"""Methods on a grounder: what they train, where it enters, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.dual_encoder import BackboneShape
from system.errors import ConfigError
from system.grounders.dino.dino_grounder import GroundingDino
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GrounderShape, GroundingBatch
from system.grounders.grounding_dino import load_grounding_dino
from system.methods.base import (
    GroundingSetting,
    Method,
    RetrievalSetting,
    build_task_method,
    method_class,
    methods_on,
)
from system.methods.prompts.dcp import GroundingDcp
from system.methods.sharing import build_method
from tests.grounders.small_grounding_dino import write_small_grounding_dino

L2P: dict[str, Any] = {
    "pool_size": 4,
    "top_k": 2,
    "prompt_length": 2,
    "text_prompt_length": 3,
    "query": "feature",
}
LPI: dict[str, Any] = {
    "rank": 2,
    "prompt_length": 4,
    "entry": "add",
    "interaction": {"operands": "tokens", "depth": None, "rank": 2},
}
# method, or method and variant -> its settings and the numbers it trains on the small grounder:
# blocks of 16, 16, 32, 64, three text layers of 32, levels of 32 and 64, of sides 8, 4, 2 behind
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
    "l2p": (L2P, 4 * (2 * 16 + 3 * 32 + 2 * 96)),
    "dcp": (
        {"prompt_length": 4},
        4 * 48 + 12 * (16**2 + 32**2) + 2 * 16 * 32 + 14 * 48,
    ),
    "ewc": ({"prompt_length": 2, "text_prompt_length": 3}, 2 * 16 + 3 * 32),
    "lpi": (LPI, 2 * (4 + 4 + 4 + 48) + 2 * 2 * (3 + 48 + 1) + 2 * 48),
    "vpt/diff_prompt": ({"prompt_length": 4}, 4 * 4 * 16),
    "coop/diff_prompt": ({"context_length": 3}, 3 * 3 * 32),
    "s_prompts/diff_prompt": (
        {"prompt_length": 4, "text_prompt_length": 3},
        3 * (4 * 16 + 3 * 32),
    ),
    "maple/diff_prompt": ({"prompt_length": 2}, 3 * 2 * 32 + 3 * 33 * 16),
    "clip_adapter/diff_prompt": ({}, 2 * (64 * 16 + 16 * 4 + 4 * 1)),
    "fedtpg/diff_prompt": ({"context_length": 2}, 2 * 32 + 6 * 32 * 33 + 2 * 32 + 2 * 32 * 33),
}
#: Prompts that stand out: as they start, small ones hardly change a result.
LOUD: dict[str, dict[str, Any]] = {
    "coop": {"init_std": 1.0},
    "cocoop": {"init_std": 1.0},
    "dcp": {"init_std": 1.0},
    "ewc": {"init_std": 1.0},
    "l2p": {"init_std": 1.0},
    "s_prompts": {"init_std": 1.0},
    "vpt": {"init_std": 1.0},
}
GROUNDERS = ["glip", "grounding_dino"]
TEXTS = ["the red dog", "a disk on the left"]
GLIP_TEXTS = ["a red dog", "the dog on the red hill"]


@pytest.fixture(scope="module")
def grounder(tmp_path_factory: pytest.TempPathFactory) -> Grounder:
    return load_grounding_dino(str(write_small_grounding_dino(tmp_path_factory.mktemp("dino"))))


def build(name: str, shape: GrounderShape, **changes: Any) -> Method:
    settings = METHODS[name][0] | changes
    method, _, variant = name.partition("/")
    section = {"name": method, **({"variant": variant} if variant else {}), **settings}
    return build_task_method(section, GroundingSetting(shape, seed=3))


@pytest.fixture(params=GROUNDERS)
def any_grounder(request: pytest.FixtureRequest, grounder: Grounder, small: Grounder) -> Grounder:
    return grounder if request.param == "grounding_dino" else small


def texts(grounder: Grounder) -> list[str]:
    return TEXTS if isinstance(grounder, GroundingDino) else GLIP_TEXTS


def batch(grounder: Grounder) -> GroundingBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *[grounder.shape.image_size] * 2, generator=generator)
    boxes = [torch.tensor([[0.1, 0.1, 0.6, 0.5]]), torch.tensor([[0.4, 0.3, 0.9, 0.9]])]
    return GroundingBatch(images, grounder.tokenize(texts(grounder)), boxes)


def loss(grounder: Grounder, method: Method) -> Tensor:
    given = batch(grounder)
    terms = grounder.losses(given, method.entries(grounder, given, None))
    every = [term.mean() for term in terms.values()]
    return torch.stack([*every, *method.loss_terms(given, {}).values()]).sum()


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_longer_neighbour_changes_nothing(name: str, any_grounder: Grounder) -> None:
    """A context that saw padding would make figures depend on the batch."""
    model = any_grounder
    method, given = build(name, model.shape, **LOUD.get(name, {})), batch(model)
    method.begin_task(0, model)
    assert len(set(given.tokens.mask.sum(dim=1).tolist())) == 2
    alone = GroundingBatch(given.images[:1], model.tokenize(texts(model)[:1]))
    (found,) = model.ground(alone, method.entries(model, alone, None))
    beside, _ = model.ground(given, method.entries(model, given, None))
    torch.testing.assert_close(beside.scores, found.scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(beside.boxes, found.boxes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_trains_what_its_formula_says(name: str, grounder: Grounder) -> None:
    """The tables compare gains against these counts."""
    method = build(name, grounder.shape)
    assert sum(p.numel() for p in method.parameters()) == METHODS[name][1]


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"zero_shot"}))
def test_every_parameter_learns_and_the_grounder_does_not(
    name: str, any_grounder: Grounder
) -> None:
    """A parameter that the loss does not reach would be counted and never used."""
    grounder = any_grounder
    method = build(name, grounder.shape)
    torch.autograd.backward(loss(grounder, method))
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        # The bias of keys shifts all scores alike, which a softmax does not see.
        unseen = ["key_proj.bias"]
        if name == "fedtpg/diff_prompt":  # with one key, the softmax is 1 whatever the query
            unseen = ["key_proj", "query"]
        if not any(part in key for part in unseen):
            assert float(parameter.grad.abs().max()) > 0, key
    assert not any(p.requires_grad or p.grad is not None for p in grounder.parameters())


@pytest.mark.parametrize("name", ["zero_shot", "linear_probing"])
def test_untrained_it_is_the_frozen_grounder(name: str, any_grounder: Grounder) -> None:
    grounder = any_grounder
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
        ("l2p", {"query": "tokens"}, r"query=tokens.*than feature"),
        ("l2p", {"entry": "replace"}, r"entry=replace.*than insert"),
        ("dcp", {"prompt_depth": 1}, r"prompt_depth=1.*at least 2"),
        ("dcp", {"prompt_depth": 4}, r"prompt_depth=4.*text tower of 3"),
        ("dcp", {"prompt_length": 3}, r"prompt_length=3.*multiple of 2"),
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
    names = {name.partition("/")[0] for name in METHODS}
    assert names <= set(methods_on("grounding"))
    for name in names:
        assert (folder / f"{name}.yaml").is_file(), name


SWIN_T = GrounderShape(
    vision_widths=(96,) * 2 + (192,) * 2 + (384,) * 6 + (768,) * 2,
    text_widths=(768,) * 12,
    pyramid_widths=(192, 384, 768),
    image_size=224,
    context_length=256,
    feature_width=256,
    level_sides=(28, 14, 7, 4, 2),
)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("vpt", 9 * 8 * 96),
        ("coop", 9 * 8 * 768),
        ("s_prompts", 9 * 8 * (96 + 768)),
        ("maple", 9 * 8 * 768 + 9 * 769 * 96),
        ("clip_adapter", 2 * (784 * 196 + 196 * 49 + 49 * 12 + 16 * 4 + 4)),
    ],
)
def test_of_themselves_variants_have_the_sizes_of_diff_prompt_s_comparison(
    name: str, numbers: int
) -> None:
    """`variant=diff_prompt` alone must do: 8 prompts, 9 layers, 224 pixels."""
    method = build_task_method(
        {"name": name, "variant": "diff_prompt"}, GroundingSetting(SWIN_T, seed=0)
    )
    assert sum(p.numel() for p in method.parameters()) == numbers


@pytest.mark.parametrize(
    ("section", "numbers"),
    [
        ({"name": "l2p", "query": "feature"}, 70_080),
        ({"name": "dcp"}, 7_361_856),
        ({"name": "dcp", "prompt_depth": 9, "attention": "per_layer"}, 16 * 864 + 8 * 7_348_032),
    ],
)
def test_forms_of_ours_have_the_sizes_that_their_modules_say(
    section: dict[str, Any], numbers: int
) -> None:
    method = build_task_method(section, GroundingSetting(SWIN_T, seed=0))
    assert sum(p.numel() for p in method.parameters()) == numbers


def test_l2p_takes_each_image_s_own_prompts_from_both_pools(any_grounder: Grounder) -> None:
    """The nearest keys of its own image: a choice for the batch would leak into scores."""
    method, given = build("l2p", any_grounder.shape, top_k=1), batch(any_grounder)
    features = any_grounder.image_features(given.images)
    with torch.no_grad():  # in the vision pool each image has a key, in the text's the second alone
        method.get_parameter("vision.keys")[2:].copy_(features)
        method.get_parameter("text.keys")[3].copy_(features[1] - features[0])
        method.get_parameter("text.keys")[0].copy_(features[0] - features[1])
    entries = method.entries(any_grounder, given, None)
    vision, context = method.get_parameter("vision.prompts"), method.get_parameter("text.prompts")
    assert torch.equal(entries.vision[0], vision[2:])
    assert entries.context is not None
    assert torch.equal(entries.context, context[[0, 3]])


def test_l2p_s_options_hold_on_a_grounder_too(grounder: Grounder) -> None:
    given = batch(grounder)
    vision = build("l2p", grounder.shape, towers=["vision"])
    entries = vision.entries(grounder, given, None)
    assert entries.context is None
    assert not torch.equal(*entries.vision[0])
    alike = build("l2p", grounder.shape, selection="batchwise_leaking")
    assert torch.equal(*alike.entries(grounder, given, None).vision[0])


def test_l2p_pulls_the_chosen_keys(grounder: Grounder) -> None:
    method, given = build("l2p", grounder.shape), batch(grounder)
    method.entries(grounder, given, None)
    features = torch.nn.functional.normalize(grounder.image_features(given.images), dim=1)
    distances = []
    for tower in ("vision", "text"):
        keys = torch.nn.functional.normalize(method.get_parameter(f"{tower}.keys"), dim=1)
        distances.append((1 - (features @ keys.T).topk(2, dim=1).values).sum(dim=1).mean())
    expected = 0.5 * torch.stack(distances).mean()
    torch.testing.assert_close(method.loss_terms(given, {})["pull"], expected)
    assert build("l2p", grounder.shape, pull_weight=0).loss_terms(given, {}) == {}


def test_dcp_s_prompts_are_read_at_each_block_s_width(any_grounder: Grounder) -> None:
    method = build("dcp", any_grounder.shape)
    assert isinstance(method, GroundingDcp)
    entries = method.entries(any_grounder, batch(any_grounder), None)
    carried, widths = method.prompts(), any_grounder.shape.vision_widths
    assert len(entries.vision) == len(entries.text) == len(any_grounder.shape.text_widths)
    for layer, (vision, text) in enumerate(zip(entries.vision, entries.text, strict=True)):
        assert torch.equal(vision, carried["vision"][layer].reshape(1, -1, widths[layer]))
        assert torch.equal(text, carried["text"][None, layer])


@pytest.mark.parametrize("name", ["vpt", "s_prompts", "maple"])
def test_vision_prompts_of_the_comparison_stand_where_diff_prompt_s_do(
    name: str, grounder: Grounder
) -> None:
    """Behind the norm and read at wider blocks, so that only what makes the prompts differs."""
    method = build_task_method(
        {"name": name, "variant": "diff_prompt", "prompt_length": 4},
        GroundingSetting(grounder.shape, seed=3),
    )
    entries = method.entries(grounder, batch(grounder), None)
    assert not entries.vision
    shapes = [tuple(prompt.shape) for prompt in entries.windows.after_norm]
    expected = [(1, 4, 16), (1, 4, 16), (1, 2, 32), (1, 1, 64)]
    assert shapes == expected[: len(shapes)]
    assert len(shapes) == (4 if name == "vpt" else 3)


def test_maple_s_vision_prompts_are_functions_of_its_text_prompts(grounder: Grounder) -> None:
    method = build("maple/diff_prompt", grounder.shape)
    entries = method.entries(grounder, batch(grounder), None)
    weight, bias = method.get_parameter("weight"), method.get_parameter("bias")
    for layer, prompt in enumerate(entries.windows.after_norm):
        expected = entries.text[layer] @ weight[layer].T + bias[layer]
        torch.testing.assert_close(prompt.reshape(1, -1, 16), expected)


def test_one_sentence_feature_makes_all_of_fedtpg_s_prompts_alike(grounder: Grounder) -> None:
    """As released: attention to a single key is that key's value, for every query."""
    method, given = build("fedtpg/diff_prompt", grounder.shape, context_length=5), batch(grounder)
    (prompts,) = method.entries(grounder, given, None).text
    assert prompts.shape == (2, 5, 32)
    torch.testing.assert_close(prompts, prompts[:, :1].expand_as(prompts))
    assert not torch.allclose(prompts[0], prompts[1])


def test_spatial_adapters_mix_places_and_not_channels(grounder: Grounder) -> None:
    method = build("clip_adapter/diff_prompt", grounder.shape)
    adapt = method.entries(grounder, batch(grounder), None).adapt_pyramid
    assert adapt is not None
    level = torch.randn(2, 5, 4, 4)
    changed = level.clone()
    changed[1, 3] += 1.0
    difference = (adapt(1, changed) - adapt(1, level)).detach().abs().amax(dim=(2, 3))
    assert difference[1, 3] > 0.1
    assert float(difference.sum()) == float(difference[1, 3])
    down, up = list(method.parameters())[1], list(method.parameters())[4]
    branch = ((level[0, 0].flatten() @ down.T).relu() @ up.T).relu()
    expected = 0.2 * branch + 0.8 * level[0, 0].flatten()
    torch.testing.assert_close(adapt(1, level)[0, 0].flatten(), expected)


HEADS = {
    # sizes of both small models: d_model 32, one box layer for all; 16 channels, three levels and
    # words of 12
    "grounding_dino": 32 * 33 + 4 * 33,
    "glip": (4 + 1) * (16 + 1) + 3 + 16 * 13 + 13 + 1,
}


def test_the_head_s_own_layers_start_where_they_stand_and_learn(any_grounder: Grounder) -> None:
    """As in GLIP; the frozen grounder itself must stay what it is for all other methods."""
    model, dino = any_grounder, isinstance(any_grounder, GroundingDino)
    given = batch(model)
    section = {"name": "linear_probing", "variant": "diff_prompt"}
    method = build_task_method(section, GroundingSetting(model.shape, seed=0))
    method.begin_task(0, model)
    plain = model.losses(given, Entries())
    found = model.losses(given, method.entries(model, given, None))
    for key, terms in plain.items():
        torch.testing.assert_close(terms, found[key], rtol=1e-4, atol=1e-5)
    torch.autograd.backward(torch.stack(list(found.values())).sum())
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        assert float(parameter.grad.abs().max()) > 0, key
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3)
    moved = model.losses(given, method.entries(model, given, None))
    assert not torch.allclose(sum(moved.values()), sum(plain.values()), rtol=1e-3)  # type: ignore[arg-type]
    learned = {key: value.clone() for key, value in method.state_dict().items()}
    method.begin_task(1, model)  # a stream goes on from what it learned
    assert all(torch.equal(value, learned[key]) for key, value in method.state_dict().items())
    expected = HEADS["grounding_dino" if dino else "glip"]
    assert sum(p.numel() for p in method.parameters()) == expected


def test_the_head_s_layers_cannot_differ_from_sample_to_sample(grounder: Grounder) -> None:
    section = {"name": "linear_probing", "variant": "diff_prompt", "sharing": "own"}
    with pytest.raises(ConfigError, match=r"sharing=own.*whole batch.*use shared"):
        build_method(section, GroundingSetting(grounder.shape, seed=0))


@pytest.mark.parametrize("name", ["maple", "s_prompts"])
def test_the_comparison_s_form_is_refused_in_retrieval(name: str) -> None:
    setting = RetrievalSetting(BackboneShape(3, 3, 8, 8, 8, 16, 8), seed=0)
    with pytest.raises(ConfigError, match=r"variant=diff_prompt.*on a grounder"):
        build_task_method({"name": name, "variant": "diff_prompt"}, setting)

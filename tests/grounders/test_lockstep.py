"""Prompts added to both towers' tokens, which run in step, against a slow twin."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.computation import Computation, placed
from system.errors import ConfigError
from system.grounders.entries import Added, Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.grounders.grounding_dino import load_grounding_dino
from system.grounders.lockstep import Lockstep, entered, rectangle
from system.methods.sharing import chosen_entries
from tests.grounders.small_glip import loaded, write_small_glip
from tests.grounders.small_grounding_dino import write_small_grounding_dino
from tests.grounders.small_towers import bert, blocks, swin

TEXTS = ["a red dog", "on the left of a red dog", "the dog"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lockstep")
    words = sorted(set(" ".join(TEXTS).split()))
    return {
        "glip": write_small_glip(folder / "glip", words),
        "grounding_dino": write_small_grounding_dino(folder / "dino"),
    }


def load(
    folders: dict[str, Path],
    kind: str,
    computation: Computation = Computation(),  # noqa: B008
) -> Grounder:
    path = folders[kind]
    if kind == "glip":
        return loaded(path, computation)
    return load_grounding_dino(str(path), computation)


@pytest.fixture(scope="module", params=["glip", "grounding_dino"])
def grounder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Grounder:
    return load(folders, request.param)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(grounder: Grounder, texts: list[str]) -> GroundingBatch:
    side = grounder.shape.image_size
    images = torch.stack([drawn(3, side, side, seed=TEXTS.index(text)) for text in texts])
    boxes = [torch.tensor([[0.1, 0.2, 0.6, 0.7]]) for _ in texts]
    return GroundingBatch(images, grounder.tokenize(texts), boxes)


def swapped(layer: int, vision: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """An exchange in which either side reads the other, and the layer counts."""
    share = (layer + 1) / 10
    message = text.mean(dim=(1, 2), keepdim=True)
    return (
        vision * (1 - share) + share * message,
        text + share * vision.mean(dim=(1, 2), keepdim=True),
    )


def some(grounder: Grounder, chosen: tuple[int, ...], *, length: int = 4, layers: int = 2) -> Added:
    """Prompts of the chosen of three samples; the last text has fewer tokens than they."""
    shape = grounder.shape
    base = shape.vision_widths[0]
    vision = [
        drawn(3, length * base // width, width, seed=layer)[list(chosen)]
        for layer, width in enumerate(shape.vision_widths[:layers])
    ]
    text = [
        drawn(3, 8, width, seed=10 + layer)[list(chosen)]
        for layer, width in enumerate(shape.text_widths[:layers])
    ]
    return Added(vision, text, swapped, range(1, layers))


@pytest.mark.parametrize(
    ("places", "expected"),
    [(16, (4, 4)), (8, (2, 4)), (4, (2, 2)), (2, (1, 2)), (6, (2, 3)), (5, (1, 5)), (1, (1, 1))],
)
def test_the_rectangle_is_as_square_as_it_gets(places: int, expected: tuple[int, int]) -> None:
    """The first four are the released ones: of 16 prompts as wide as the first stage."""
    assert rectangle(places) == expected


def test_towers_in_step_without_a_prompt_are_the_plain_ones_to_the_bit() -> None:
    """Else LPI would be compared with another model than the frozen one."""
    images, ids = drawn(2, 3, 40, 36), torch.randint(0, 50, (2, 6))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    levels = swin()(images).feature_maps
    words = bert()(ids, attention_mask=mask).last_hidden_state
    vision, text = swin(), bert()
    lockstep = Lockstep(vision, text)
    for added in (None, Added((), ())):
        with lockstep.active(added, images):
            found = text(ids, attention_mask=mask).last_hidden_state
            assert torch.equal(found, words)
            seen = vision(images).feature_maps
            assert len(seen) == len(levels) == 2
            assert all(torch.equal(one, other) for one, other in zip(seen, levels, strict=True))


def by_hand(
    vision: Any, text: Any, images: Tensor, ids: Tensor, added: Added
) -> tuple[list[Tensor], Tensor]:
    """Layer by layer and place by place: 10 x 10 tokens of width 8, then 5 x 5 of width 16."""
    hidden, _ = vision.swin.embeddings(images)
    words = text.embeddings(ids)
    levels = []
    for layer, block in enumerate(blocks(vision)):
        side, width = (10, 8) if layer < 2 else (5, 16)
        grid = hidden.view(-1, side, side, width).clone()
        words = words.clone()
        has_text = layer < len(text.encoder.layer)
        cells: list[tuple[int, int]] = []
        if layer < len(added.vision):
            places = added.vision[layer].shape[1]
            columns = {8: 4, 4: 2, 2: 2}[places]
            cells = [(place // columns, place % columns) for place in range(places)]
            for place, (row, column) in enumerate(cells):
                grid[:, row, column] += added.vision[layer][:, place]
        if has_text and layer < len(added.text):
            for place in range(added.text[layer].shape[1]):
                words[:, place] += added.text[layer][:, place]
        if layer in added.exchanging:
            corner = torch.stack([grid[:, row, column] for row, column in cells], dim=1)
            corner, first = added.exchange(layer, corner, words[:, : added.text[layer].shape[1]])
            for place, (row, column) in enumerate(cells):
                grid[:, row, column] = corner[:, place]
            for place in range(first.shape[1]):
                words[:, place] = first[:, place]
        hidden, _ = block(grid.flatten(1, 2), (side, side), always_partition=True)
        if has_text:
            words = text.encoder.layer[layer](words)
        if layer in (1, 3):
            stage = f"stage{layer // 2 + 1}"
            level = vision.hidden_states_norms[stage](hidden)
            levels.append(level.view(-1, side, side, width).permute(0, 3, 1, 2))
        if layer == 1:
            hidden = vision.swin.encoder.layers[0].downsample(hidden, (10, 10))
    return levels, words


@pytest.mark.parametrize("layers", [1, 3, 4])
def test_prompts_are_added_then_exchanged_then_the_layer_runs(layers: int) -> None:
    """Of four vision blocks and three text layers: another order is another method."""
    vision, text, images, ids = swin(), bert(), drawn(2, 3, 40, 40), torch.randint(0, 50, (2, 9))
    added = Added(
        [drawn(2, p, w, seed=p) for p, w in ((8, 8), (8, 8), (4, 16), (4, 16))][:layers],
        [drawn(1, 5, 16, seed=20 + layer) for layer in range(min(layers, 3))],
        swapped,
        range(1, min(layers, 3)),
    )
    expected = by_hand(vision, text, images, ids, added)
    lockstep = Lockstep(vision, text)
    with lockstep.active(added, images):
        words = text(ids).last_hidden_state
        levels = vision(images).feature_maps
    torch.testing.assert_close(words, expected[1], rtol=1e-4, atol=1e-5)
    for level, hand in zip(levels, expected[0], strict=True):
        torch.testing.assert_close(level, hand, rtol=1e-4, atol=1e-5)


def outputs(grounder: Grounder, batch: GroundingBatch, entries: Entries) -> Tensor:
    """Every sample's loss terms (B, terms)."""
    return torch.stack(list(grounder.losses(batch, entries).values()), dim=1)


@torch.no_grad()
def test_a_sample_has_its_own_prompts_and_its_own_exchange(grounder: Grounder) -> None:
    """As released, a batch exchanged by its first sample's task; nor may padding tell on it.

    The second text is longer than the others, the third one shorter than the prompt.
    """
    together = outputs(
        grounder, batch_of(grounder, TEXTS), Entries(added=some(grounder, (0, 1, 2)))
    )
    for index, text in enumerate(TEXTS):
        alone = Entries(added=some(grounder, (index,)))
        found = outputs(grounder, batch_of(grounder, [text]), alone)
        torch.testing.assert_close(found, together[index : index + 1], rtol=1e-3, atol=1e-4)
    shared = [Entries(added=some(grounder, (index,))) for index in range(3)]  # of a task each
    chosen = chosen_entries(shared, torch.tensor([0, 1, 2]))
    by_task = outputs(grounder, batch_of(grounder, TEXTS), chosen)
    torch.testing.assert_close(by_task, together)
    swapped_prompts = Entries(added=some(grounder, (1, 2, 0)))
    other = outputs(grounder, batch_of(grounder, TEXTS), swapped_prompts)
    assert not torch.allclose(other, together, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_it_leaves_no_trace(grounder: Grounder) -> None:
    """The next batch, without prompts, is the frozen model's again, also after an error."""
    batch = batch_of(grounder, TEXTS)
    plain = outputs(grounder, batch, Entries())
    prompted = outputs(grounder, batch, Entries(added=some(grounder, (0, 1, 2))))
    assert not torch.equal(plain, prompted)
    too_long = some(grounder, (0, 1, 2), length=2 * grounder.shape.image_size**2)
    with pytest.raises(ConfigError, match=r"set a smaller method\.prompt_length"):
        outputs(grounder, batch, Entries(added=too_long))
    assert torch.equal(outputs(grounder, batch, Entries()), plain)
    boxes = [found.boxes for found in grounder.ground(batch, Entries())]
    again = [found.boxes for found in copy.deepcopy(grounder).ground(batch, Entries())]
    assert all(torch.equal(one, other) for one, other in zip(boxes, again, strict=True))


@torch.no_grad()
def test_added_and_inserted_prompts_enter_together(grounder: Grounder) -> None:
    """Diff-Prompt's beside LPI's: what is inserted must not take the first tokens' place."""
    batch = batch_of(grounder, TEXTS)
    shape = grounder.shape
    inserted = Entries(
        vision=[drawn(1, 2, width, seed=30) for width in shape.vision_widths],
        text=[drawn(1, 2, width, seed=31) for width in shape.text_widths],
    )
    added = some(grounder, (0, 1, 2))
    both = outputs(grounder, batch, replace(inserted, added=added))
    for one in (inserted, Entries(added=added)):
        assert not torch.allclose(outputs(grounder, batch, one), both, rtol=1e-3)
    none = replace(added, vision=[p * 0 for p in added.vision], text=[p * 0 for p in added.text])
    silent = replace(inserted, added=replace(none, exchanging=range(0)))
    torch.testing.assert_close(
        outputs(grounder, batch, silent), outputs(grounder, batch, inserted), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["glip", "grounding_dino"])
def test_gradients_are_the_same_when_blocks_are_computed_again(
    folders: dict[str, Path], kind: str
) -> None:
    found = []
    for again in (False, True):
        grounder = load(folders, kind, Computation(gradient_checkpointing=again))
        added = some(grounder, (0, 1, 2))
        leaves = [p.requires_grad_() for p in (*added.vision, *added.text)]
        loss = outputs(grounder, batch_of(grounder, TEXTS), Entries(added=added)).sum()
        found.append(torch.autograd.grad(loss, leaves))
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_the_sides_of_feature_maps_are_those_of_the_towers(grounder: Grounder) -> None:
    """Prompts that do not fit are refused by them, before anything is trained."""
    sides: list[int] = []
    original = entered

    def spy(added: Added, layer: int, vision: Tensor | None, text: Tensor | None) -> Any:
        if vision is not None:
            sides.append(vision.shape[1])
        return original(added, layer, vision, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("system.grounders.lockstep.entered", spy)
        with torch.no_grad():
            grounder.ground(batch_of(grounder, TEXTS), Entries(added=Added((), ())))
    assert tuple(sides) == grounder.shape.vision_sides


@pytest.mark.parametrize("kind", ["glip", "grounding_dino"])
def test_weights_stored_in_bf16_change_no_bit(folders: dict[str, Path], kind: str) -> None:
    """Of losses and gradients, with prompts in both towers: autocast casts at each use."""
    found = []
    for stored in (True, False):
        grounder = load(folders, kind, Computation("bf16"))
        if stored:
            placed(grounder, torch.device("cpu"))
            assert any(p.dtype == torch.bfloat16 for p in grounder.parameters())
        given = [some(grounder, (0, 1, 2))]
        leaves = [p.requires_grad_() for p in (*given[0].vision, *given[0].text)]
        losses = grounder.losses(batch_of(grounder, TEXTS), Entries(added=given[0]))
        total = torch.stack([value.sum() for value in losses.values()]).sum()
        found.append([*losses.values(), *torch.autograd.grad(total, leaves)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)

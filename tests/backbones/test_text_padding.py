"""Texts padded to the longest of their batch: less work, the same features up to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.computation import Computation
from system.backbones.dual_encoder import Deep
from system.backbones.tower_pair import TOKENS, TowerPair
from tests.backbones.small_backbones import KINDS, LAYERS, WORDS, Kind

CONTEXT = 40
TEXTS = ["a red dog", "the hill", "a dog on the red hill a dog"]
CLIP, SIGLIP = KINDS
#: Prompts that enter in each way, and the room that a text has for them.
ENTRIES: list[tuple[Deep, int]] = [("add", 2), ("replace", 5), ("overwrite", 0), ("prefix", 0)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return CLIP.write(tmp_path_factory.mktemp("clip"), WORDS, context=CONTEXT)


def both(directory: Path, kind: Kind = CLIP) -> tuple[TowerPair, TowerPair]:
    """Padded to the context, and to the longest text."""
    return kind.load(str(directory)), kind.load(str(directory), Computation(text_padding="longest"))


def prompt_of(deep: Deep, room: int, pair: TowerPair, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    layers = 1 if deep == "overwrite" else LAYERS
    # More tokens than the short texts have, where they are written over.
    length = 20 if deep == "overwrite" else room or 4
    return torch.randn(batch, layers, length, pair.shape.text_width, generator=generator)


def test_a_batch_is_as_long_as_its_longest_text_in_multiples(directory: Path) -> None:
    context, longest = both(directory)
    for texts, placeholders, length in (
        (["dog"], 0, 8),
        (["a dog on the red hill"], 0, 8),  # six words, a begin, an end
        (["a dog on the red hill a"], 0, 16),
        (["dog", "a dog on the red hill"], 1, 16),
        (["dog " * 50], 0, CONTEXT),
    ):
        ids = longest.tokenize(texts, placeholders)
        assert ids.shape == (len(texts), length)
        assert torch.equal(ids, context.tokenize(texts, placeholders)[:, :length])
    assert TOKENS == 8
    assert longest.tokenize([]).shape == (0, CONTEXT)


@pytest.mark.parametrize("batch", [1, len(TEXTS)])
@pytest.mark.parametrize(("deep", "room"), ENTRIES)
def test_features_and_gradients_are_those_of_the_context(
    directory: Path, deep: Deep, room: int, batch: int
) -> None:
    """A token that saw the padding, or a prompt that lost its room, would show here."""
    results = []
    for pair in both(directory):
        leaf = prompt_of(deep, room, pair, batch).requires_grad_()
        entered: Any = leaf if deep != "prefix" else leaf.unbind(1)
        features = pair("text", pair.tokenize(TEXTS, room), entered, deep)
        features.square().sum().backward()
        assert leaf.grad is not None
        results.append((features.detach(), leaf.grad))
    for of_context, of_longest in zip(*results, strict=True):
        torch.testing.assert_close(of_longest, of_context, rtol=1e-5, atol=1e-5)


def test_unprompted_features_are_those_of_the_context(directory: Path) -> None:
    context, longest = both(directory)
    with torch.inference_mode():
        expected = context("text", context.tokenize(TEXTS), None)
        found = longest("text", longest.tokenize(TEXTS), None)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        ids = longest.tokenize(TEXTS, 3)
        assert torch.equal(longest.text_lengths(ids), context.text_lengths(ids))
        without = longest.without_placeholders(ids, 3)
        assert without.shape == ids.shape
        found = longest("text", without, None)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_tower_that_reads_its_last_position_keeps_its_padding(tmp_path: Path) -> None:
    """SigLIP's feature is that of the last padding token: trimmed, it would be another one."""
    context, longest = both(SIGLIP.write(tmp_path, WORDS), SIGLIP)
    assert torch.equal(longest.tokenize(TEXTS, 2), context.tokenize(TEXTS, 2))
    assert not longest.trims_texts

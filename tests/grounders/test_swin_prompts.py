"""Prompts in Swin's windows, against a slow twin; and rules that BERT's follow too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from system.grounders.bert_prompts import BertPrompts
from system.grounders.entries import Entries
from system.grounders.glip.glip import Glip
from system.grounders.swin_prompts import RelativeBias, SwinPrompts, WindowEntry
from tests.grounders.small_glip import loaded, some_batch, some_entries, write_small_glip
from tests.grounders.small_towers import WINDOW, bert, blocks, swin


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Glip:
    return loaded(write_small_glip(tmp_path_factory.mktemp("small")))


def block_by_hand(
    block: Any, hidden: Tensor, side: int, prompt: Tensor, bias: RelativeBias = "own"
) -> Tensor:
    """One Swin block on hidden states [1, side^2, D], each query token by itself.

    `prompt` (N, D) is what stands in each window, behind whatever norm it went through.
    """
    width, shift = hidden.shape[-1], block.shift_size
    padded = -(-side // WINDOW) * WINDOW
    normed = torch.zeros(padded, padded, width)
    normed[:side, :side] = block.layernorm_before(hidden)[0].view(side, side, width)
    attention = block.attention
    heads, size = attention.num_attention_heads, attention.head_dim
    table = attention.relative_position_bias.relative_position_bias_table
    attended = torch.zeros(padded, padded, width)
    behind = 0 if bias == "own" else len(prompt)  # how many places the scores' terms are late

    def region(row: int, column: int) -> int:
        """Which part of the picture, once rolled, a token came from."""
        return int(2 * (row < shift) + (column < shift))

    def window(row: int, column: int) -> tuple[int, int]:
        return (row - shift) % padded // WINDOW, (column - shift) % padded // WINDOW

    def term(query: int, key: int, cells: list[tuple[int, int]]) -> Tensor:
        """What a score gets for the two tokens' places in their window: bias, shift mask."""
        query, key = query - behind, key - behind
        if not (0 <= query < len(cells) and 0 <= key < len(cells)):
            return torch.zeros(heads)
        down = query // WINDOW - key // WINDOW + WINDOW - 1
        right = query % WINDOW - key % WINDOW + WINDOW - 1
        hidden = -100.0 if region(*cells[query]) != region(*cells[key]) else 0.0
        return table[down * (2 * WINDOW - 1) + right] + hidden  # type: ignore[no-any-return]

    every = [(row, column) for row in range(padded) for column in range(padded)]
    for row, column in every:
        cells = [cell for cell in every if window(*cell) == window(row, column)]
        cells.sort(key=lambda cell: [(at - shift) % padded for at in cell])  # as rolled
        keys = torch.stack([normed[cell] for cell in cells] + list(prompt))
        query = cells.index((row, column))
        terms = torch.stack([term(query, key, cells) for key in range(len(keys))])
        q = attention.q_proj(normed[row, column]).view(heads, size)
        k = attention.k_proj(keys).view(-1, heads, size)
        v = attention.v_proj(keys).view(-1, heads, size)
        scores = torch.einsum("hs,khs->kh", q, k) / size**0.5 + terms
        mixed = torch.einsum("kh,khs->hs", scores.softmax(dim=0), v)
        attended[row, column] = attention.o_proj(mixed.flatten())
    hidden = hidden + attended[:side, :side].reshape(1, side * side, width)
    return hidden + block.mlp(block.layernorm_after(hidden))  # type: ignore[no-any-return]


@pytest.mark.parametrize("index", [0, 1])
def test_a_prompt_is_seen_in_each_window_and_leaves_no_token(index: int) -> None:
    """Windows shifted or not; an offset by one token would go unnoticed in training."""
    model = swin()
    block = blocks(model)[index]
    assert (block.shift_size > 0) == (index == 1)
    hidden, prompt = torch.randn(1, 100, 8), torch.randn(1, 3, 8)
    entry = SwinPrompts([block])
    with entry.active([prompt]):
        found, _ = block(hidden, (10, 10), always_partition=True)
    expected = block_by_hand(block, hidden, 10, block.layernorm_before(prompt)[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("bias", ["own", "released"])
def test_a_prompt_behind_the_norm_enters_as_it_is(index: int, bias: RelativeBias) -> None:
    """Diff-Prompt's keep their size; as released the bias is late by the prompt's length."""
    block = blocks(swin())[index]
    hidden, prompt = torch.randn(1, 100, 8), 3 * torch.randn(1, 2, 8)
    entry = SwinPrompts([block])
    with entry.active([], WindowEntry([prompt], relative_bias=bias)):
        found, _ = block(hidden, (10, 10), always_partition=True)
    expected = block_by_hand(block, hidden, 10, prompt[0], bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    other = block_by_hand(block, hidden, 10, block.layernorm_before(prompt)[0], bias)
    assert not torch.allclose(found, other, atol=1e-3)


def test_prompts_of_both_kinds_stand_side_by_side() -> None:
    """LPI's go through the norm and Diff-Prompt's do not; one must not push the other out."""
    block = blocks(swin())[1]
    hidden = torch.randn(1, 100, 8)
    through, after = torch.randn(1, 2, 8), torch.randn(1, 3, 8)
    entry = SwinPrompts([block])
    with entry.active([through], WindowEntry([after])):
        found, _ = block(hidden, (10, 10), always_partition=True)
    both = torch.cat([block.layernorm_before(through)[0], after[0]])
    torch.testing.assert_close(found, block_by_hand(block, hidden, 10, both), rtol=1e-4, atol=1e-5)


def test_as_released_a_window_gets_the_prompt_of_sample_f_mod_b() -> None:
    """Three samples of nine windows: every window of the first sample but three has a stranger's.

    Against the block on each window's own prompt, one window after the other.
    """
    block, samples, side = blocks(swin())[0], 3, 12  # no shift, 3 x 3 windows
    hidden, prompts = torch.randn(samples, side**2, 8), torch.randn(samples, 2, 8)
    entry = SwinPrompts([block])
    with entry.active([], WindowEntry([prompts], tiling="released")):
        found, _ = block(hidden, (side, side), always_partition=True)
    number = 0  # of the window, sample by sample
    for sample in range(samples):
        image = hidden[sample].view(side, side, 8)
        result = found[sample].view(side, side, 8)
        for row in range(0, side, WINDOW):
            for column in range(0, side, WINDOW):
                place = slice(row, row + WINDOW), slice(column, column + WINDOW)
                tokens = image[place].reshape(1, WINDOW**2, 8)
                expected = block_by_hand(block, tokens, WINDOW, prompts[number % samples])
                given = result[place].reshape(1, WINDOW**2, 8)
                torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
                number += 1


def of_sample(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum(0)


@torch.no_grad()
def test_the_released_tiling_mixes_neighbours_in_the_loss_alone(small: Glip) -> None:
    """As released: trained in batches, judged image by image."""
    batch, alone = some_batch(small), some_batch(small, (0,))

    def entries(chosen: tuple[int, ...], tiling: Any) -> Entries:
        prompts = some_entries(small, chosen, length=4).vision
        return Entries(windows=WindowEntry(prompts, tiling=tiling))

    together, single = entries((0, 1, 2), "released"), entries((0,), "released")
    own = replace(together, windows=replace(together.windows, tiling="sample"))
    first = of_sample(small.losses(alone, single))[0]
    assert not torch.isclose(of_sample(small.losses(batch, together))[0], first, rtol=1e-5)
    torch.testing.assert_close(of_sample(small.losses(batch, own))[0], first)
    for found, expected in zip(
        small.ground(batch, together), small.ground(batch, own), strict=True
    ):
        assert torch.equal(found.scores, expected.scores)


def levels(model: Any, pixels: Tensor) -> list[Tensor]:
    return list(model(pixels).feature_maps)


def test_without_prompts_both_towers_are_the_plain_ones_to_the_bit() -> None:
    """Zero-shot metrics must be the frozen model's."""
    plain, hooked, pixels = swin(), swin(), torch.randn(2, 3, 40, 40)
    vision = SwinPrompts(blocks(hooked))
    with vision.active([]):
        for expected, found in zip(levels(plain, pixels), levels(hooked, pixels), strict=True):
            assert torch.equal(expected, found)
    text, hooked_text, ids = bert(), bert(), torch.randint(0, 50, (2, 6))
    with BertPrompts(hooked_text.encoder).active([]):
        assert torch.equal(text(ids).last_hidden_state, hooked_text(ids).last_hidden_state)


def swin_outputs(prompts: list[Tensor], pixels: Tensor) -> Tensor:
    model = swin()
    with SwinPrompts(blocks(model)).active(prompts):
        found: Tensor = levels(model, pixels)[-1]
    return found


def bert_outputs(prompts: list[Tensor], ids: Tensor) -> Tensor:
    model = bert()
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    with BertPrompts(model.encoder).active(prompts):
        found: Tensor = model(ids, attention_mask=mask).last_hidden_state
    return found


def behind_norm_outputs(prompts: list[Tensor], pixels: Tensor) -> Tensor:
    model = swin()
    with SwinPrompts(blocks(model)).active([], WindowEntry(prompts)):
        found: Tensor = levels(model, pixels)[-1]
    return found


@pytest.mark.parametrize(
    ("outputs", "inputs", "widths"),
    [
        (behind_norm_outputs, torch.randn(2, 3, 40, 40), (8, 8, 16)),
        (swin_outputs, torch.randn(2, 3, 40, 40), (8, 8, 16)),
        (bert_outputs, torch.randint(0, 50, (2, 6)), (16, 16)),
    ],
)
def test_each_sample_has_its_own_prompt(
    outputs: Callable[[list[Tensor], Tensor], Tensor], inputs: Tensor, widths: tuple[int, ...]
) -> None:
    """Diff-Prompt's prompts differ from sample to sample: windows must not be dealt out wrongly."""
    prompts = [torch.randn(2, 3, width) for width in widths]
    together = outputs(prompts, inputs)
    first = outputs([prompt[:1] for prompt in prompts], inputs[:1])
    other = outputs([prompt[1:] for prompt in prompts], inputs[:1])
    torch.testing.assert_close(together[:1], first, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first, other, atol=1e-4)


def test_more_prompts_behind_the_norm_than_blocks_are_refused() -> None:
    entry = SwinPrompts(blocks(swin()))
    given = WindowEntry([torch.zeros(1, 1, 8)] * 9)
    with pytest.raises(ValueError, match=r"9 prompts do not fit"), entry.active([], given):
        pass


@pytest.mark.parametrize("tower", ["swin", "bert"])
def test_more_prompts_than_layers_are_refused(tower: str) -> None:
    entry: SwinPrompts | BertPrompts
    entry = SwinPrompts(blocks(swin())) if tower == "swin" else BertPrompts(bert().encoder)
    with pytest.raises(ValueError, match=r"do not fit"), entry.active([torch.zeros(1, 1, 8)] * 9):
        pass

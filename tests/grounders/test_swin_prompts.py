"""Prompts in Swin's windows, against a slow twin; and rules that BERT's follow too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from system.grounders.bert_prompts import BertPrompts
from system.grounders.swin_prompts import SwinPrompts
from tests.grounders.small_towers import WINDOW, bert, blocks, swin


def block_by_hand(block: Any, hidden: Tensor, side: int, prompt: Tensor) -> Tensor:
    """One Swin block on hidden states [1, side^2, D], each query token by itself."""
    width, shift = hidden.shape[-1], block.shift_size
    padded = -(-side // WINDOW) * WINDOW
    normed = torch.zeros(padded, padded, width)
    normed[:side, :side] = block.layernorm_before(hidden)[0].view(side, side, width)
    extra = block.layernorm_before(prompt)[0]
    attention = block.attention
    heads, size = attention.num_attention_heads, attention.head_dim
    table = attention.relative_position_bias.relative_position_bias_table
    attended = torch.zeros(padded, padded, width)

    def region(row: int, column: int) -> tuple[bool, bool]:
        """Which part of the picture, once rolled, a token came from."""
        return row < shift, column < shift

    def window(row: int, column: int) -> tuple[int, int]:
        return (row - shift) % padded // WINDOW, (column - shift) % padded // WINDOW

    cells = [(row, column) for row in range(padded) for column in range(padded)]
    for row, column in cells:
        seen = [
            cell
            for cell in cells
            if window(*cell) == window(row, column) and region(*cell) == region(row, column)
        ]
        keys = torch.stack([normed[cell] for cell in seen] + list(extra))
        bias = torch.zeros(len(keys), heads)
        for index, (r, c) in enumerate(seen):
            down = (row - shift) % padded % WINDOW - (r - shift) % padded % WINDOW
            right = (column - shift) % padded % WINDOW - (c - shift) % padded % WINDOW
            bias[index] = table[(down + WINDOW - 1) * (2 * WINDOW - 1) + right + WINDOW - 1]
        q = attention.q_proj(normed[row, column]).view(heads, size)
        k = attention.k_proj(keys).view(-1, heads, size)
        v = attention.v_proj(keys).view(-1, heads, size)
        scores = torch.einsum("hs,khs->kh", q, k) / size**0.5 + bias
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
    expected = block_by_hand(block, hidden, 10, prompt)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize(
    ("outputs", "inputs", "widths"),
    [
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


@pytest.mark.parametrize("tower", ["swin", "bert"])
def test_more_prompts_than_layers_are_refused(tower: str) -> None:
    entry: SwinPrompts | BertPrompts
    entry = SwinPrompts(blocks(swin())) if tower == "swin" else BertPrompts(bert().encoder)
    with pytest.raises(ValueError, match=r"do not fit"), entry.active([torch.zeros(1, 1, 8)] * 9):
        pass

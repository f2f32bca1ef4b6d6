"""Where prompts enter Swin and BERT, against a slow twin that attends window by window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, SwinBackbone, SwinConfig

from system.grounders.bert_prompts import BertPrompts
from system.grounders.swin_prompts import SwinPrompts

WINDOW = 4


def swin() -> Any:
    """Two stages; 10 tokens a side do not divide into windows of 4, so padding is at work."""
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=40,
        patch_size=4,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=WINDOW,
        out_indices=[1, 2],
    )
    model = SwinBackbone(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "bias_table" in name:  # zero in a fresh model, which would hide a wrong bias
            parameter.normal_()
    return model


def blocks(model: Any) -> list[Any]:
    return [block for stage in model.swin.encoder.layers for block in stage.blocks]


def bert() -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
    )
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


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
    """Zero-shot figures must be the frozen model's."""
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


def test_a_layers_prompt_equals_a_context_in_the_last_layer_alone() -> None:
    """In the last layer it makes no difference whether a token is dropped then or later."""
    model, ids = bert(), torch.randint(0, 50, (2, 6))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])
    plain = model(ids, attention_mask=mask, output_hidden_states=True)
    prompt = torch.randn(1, 2, 16)
    last = model.encoder.layer[-1]
    seen = torch.cat([mask, torch.ones(2, 2, dtype=torch.long)], dim=1)[:, None, None].bool()
    hidden = torch.cat([plain.hidden_states[-2], prompt.expand(2, -1, -1)], dim=1)
    expected = last(hidden, seen)[:, :6]
    silent = [torch.zeros(1, 0, 16)] * 2  # prompts of no token in the layers before
    with BertPrompts(model.encoder).active([*silent, prompt]):
        found = model(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_context_passes_through_all_layers() -> None:
    """Dropped after the first layer, CoOp would be a prompt of that layer alone."""
    model, ids, context = bert(), torch.randint(0, 50, (1, 6)), torch.randn(1, 2, 16)
    hidden = torch.cat([model.embeddings(ids), context], dim=1)
    for layer in model.encoder.layer:
        hidden = layer(hidden)
    with BertPrompts(model.encoder).active([], context):
        found = model(ids).last_hidden_state
    torch.testing.assert_close(found, hidden[:, :6], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_context_does_not_see_a_neighbours_padding() -> None:
    """It passes through all layers: what it saw in one, the words see in the next."""
    model = bert().double()
    ids, context = torch.tensor([[1, 4, 7, 2, 0, 0, 0, 0]]), torch.randn(1, 2, 16).double()
    mask = (ids > 0).long()
    neighbour = torch.arange(1, 9)[None]
    with BertPrompts(model.encoder).active([], context):
        alone = model(ids[:, :4], attention_mask=mask[:, :4]).last_hidden_state
        both = model(
            torch.cat([ids, neighbour]), attention_mask=torch.cat([mask, torch.ones_like(mask)])
        ).last_hidden_state
    torch.testing.assert_close(both[:1, :4], alone)


@pytest.mark.parametrize("tower", ["swin", "bert"])
def test_more_prompts_than_layers_are_refused(tower: str) -> None:
    entry: SwinPrompts | BertPrompts
    entry = SwinPrompts(blocks(swin())) if tower == "swin" else BertPrompts(bert().encoder)
    with pytest.raises(ValueError, match=r"do not fit"), entry.active([torch.zeros(1, 1, 8)] * 9):
        pass

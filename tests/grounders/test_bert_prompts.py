"""Prompts and contexts in BERT, against its layers called one by one."""

from __future__ import annotations

import torch

from system.grounders.bert_prompts import BertPrompts
from tests.grounders.small_towers import bert


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

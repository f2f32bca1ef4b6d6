"""Prefixes of keys and values: what hooks do equals the attention written out, sample by sample."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.computation import COMPILERS, Computation
from system.backbones.dual_encoder import MODALITIES, Modality
from system.backbones.prompt_entry import PromptEntry
from system.backbones.tower_pair import TowerPair
from tests.backbones.small_backbones import LAYERS, Kind, inputs_for, plain_features

KEYS = 2  # and as many values


def prefix_for(
    pair: TowerPair, modality: Modality, batch: int = 1, *, depth: int = LAYERS
) -> Tensor:
    """A random prefix (batch, depth, 2 KEYS, D)."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, depth, 2 * KEYS, pair.shape.width(modality), generator=generator)


def attended(attention: Any, tokens: Tensor, prefix: Tensor, *, causal: bool) -> Tensor:
    """Multi-head attention of one sample's tokens (T, D), head by head and query by query."""
    keys, values = prefix.chunk(2) if len(prefix) else (tokens[:0], tokens[:0])
    query = attention.q_proj(tokens)
    key = torch.cat([keys, attention.k_proj(tokens)])
    value = torch.cat([values, attention.v_proj(tokens)])
    size, rows = attention.head_dim, []
    for at in range(len(tokens)):
        seen = len(keys) + (at + 1 if causal else len(tokens))
        heads = []
        for head in range(attention.num_heads):
            own = slice(head * size, (head + 1) * size)
            scores = key[:seen, own] @ query[at, own] / size**0.5
            heads.append(scores.softmax(0) @ value[:seen, own])
        rows.append(torch.cat(heads))
    mixed: Tensor = attention.out_proj(torch.stack(rows))
    return mixed


def by_hand(model: Any, modality: Modality, inputs: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """Features (B, P) under one prefix (1|B, 2 N, D) per layer, from the plain model's parts."""
    clip, found = model.config.model_type == "clip", []
    tower = model.vision_model if modality == "vision" else model.text_model
    for sample in range(len(inputs)):
        tokens = tower.embeddings(inputs[sample : sample + 1])[0]
        if clip and modality == "vision":
            tokens = tower.pre_layrnorm(tokens)
        for index, layer in enumerate(tower.encoder.layers):
            prefix = layers[index] if index < len(layers) else tokens.new_zeros(1, 0, 0)
            own = prefix[sample if len(prefix) > 1 else 0]
            causal = clip and modality == "text"
            normed = layer.layer_norm1(tokens)
            tokens = tokens + attended(layer.self_attn, normed, own, causal=causal)
            tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
        if modality == "vision":
            if clip:
                found.append(model.visual_projection(tower.post_layernorm(tokens[0])))
            else:
                found.append(tower.head(tower.post_layernorm(tokens)[None])[0])
        else:
            tokens = tower.final_layer_norm(tokens)
            end = int((inputs[sample] == model.config.text_config.eos_token_id).int().argmax())
            found.append(model.text_projection(tokens[end]) if clip else tower.head(tokens[-1]))
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("depth", [1, LAYERS])
@pytest.mark.parametrize("modality", MODALITIES)
def test_prefixes_equal_the_attention_by_hand(
    pair: TowerPair, library: Any, modality: Modality, depth: int, batch: int
) -> None:
    """A prefix that a mask hides, or that enters before the projection, trains something else."""
    inputs, prefix = inputs_for(pair, modality), prefix_for(pair, modality, batch, depth=depth)
    expected = by_hand(library, modality, inputs, prefix.unbind(1))
    found = pair(modality, inputs, prefix, "prefix")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - pair(modality, inputs, None)).abs().max() > 1e-3, "no prefix entered"


@torch.no_grad()
@pytest.mark.parametrize("modality", MODALITIES)
def test_layers_may_have_prefixes_of_their_own_lengths(
    pair: TowerPair, library: Any, modality: Modality
) -> None:
    """DualPrompt's general prompts are shorter than its expert ones."""
    inputs, drawn = inputs_for(pair, modality), prefix_for(pair, modality, 3)
    layers = [drawn[:, 0], drawn[:, 1, :0], drawn[:1, 2, :2]]
    expected = by_hand(library, modality, inputs, layers)
    torch.testing.assert_close(
        pair(modality, inputs, layers, "prefix"), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("modality", MODALITIES)
def test_without_a_prefix_outputs_stay_the_library_s_to_the_bit(
    pair: TowerPair, library: Any, modality: Modality
) -> None:
    """Zero-shot scores must not depend on which method ran before."""
    inputs = inputs_for(pair, modality)
    pair(modality, inputs, prefix_for(pair, modality), "prefix")
    assert torch.equal(pair(modality, inputs, None), plain_features(library, modality, inputs))
    with pytest.raises(RuntimeError):  # a width that fits no layer: breaks inside the attention
        pair(modality, inputs, prefix_for(pair, modality)[..., :-1], "prefix")
    assert torch.equal(pair(modality, inputs, None), plain_features(library, modality, inputs))


@torch.no_grad()
@pytest.mark.parametrize("modality", MODALITIES)
def test_eager_and_sdpa_attention_agree(
    kind: Kind, checkpoint: Path, pair: TowerPair, modality: Modality
) -> None:
    """Eager has a causal mask of its own, which must let every token see the prefix."""
    eager = kind.load(str(checkpoint))
    eager.model.set_attn_implementation("eager")
    inputs, prefix = inputs_for(pair, modality), prefix_for(pair, modality, 3)
    found, expected = (p(modality, inputs, prefix, "prefix") for p in (eager, pair))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def gradient(pair: TowerPair, modality: Modality, prefix: Tensor) -> Tensor:
    leaf = prefix.clone().requires_grad_()
    pair(modality, inputs_for(pair, modality), leaf, "prefix").square().sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("modality", MODALITIES)
def test_checkpointing_gives_the_same_gradient_in_every_layer_s_keys_and_values(
    kind: Kind, checkpoint: Path, pair: TowerPair, modality: Modality
) -> None:
    """The second forward pass runs when no prefix is active any more: it must enter anyway."""
    lean = kind.load(str(checkpoint), Computation(gradient_checkpointing=True))
    for batch in (1, 3):
        prefix = prefix_for(pair, modality, batch)
        expected = gradient(pair, modality, prefix)
        assert torch.equal(gradient(lean, modality, prefix), expected)
        assert (expected.abs().amax(dim=(0, 3)) > 0).all()


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_twin_has_prefixes_of_its_own(pair: TowerPair, modality: Modality) -> None:
    """Copied hooks would hand a prefix to the model that the twin was copied from."""
    inputs, prefix = inputs_for(pair, modality), prefix_for(pair, modality)
    expected = pair(modality, inputs, prefix, "prefix")
    twin = pair.with_own_modules()
    assert torch.equal(twin(modality, inputs, prefix, "prefix"), expected)
    assert torch.equal(twin(modality, inputs, None), pair(modality, inputs, None))


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="torch.compile needs a C++ compiler"
)
def test_compiled_layers_agree_under_prefixes(
    kind: Kind, checkpoint: Path, pair: TowerPair
) -> None:
    """A compiled tower that lost its prefix would train nothing."""
    modality: Modality = "vision" if kind.name == "clip" else "text"  # one each: it takes a while
    fast = kind.load(str(checkpoint), Computation("auto", False, True))
    inputs = inputs_for(pair, modality)
    for batch in (1, 3):
        prefix = prefix_for(pair, modality, batch)
        with torch.inference_mode():
            found, expected = (p(modality, inputs, prefix, "prefix") for p in (fast, pair))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        reached, wanted = (gradient(p, modality, prefix) for p in (fast, pair))
        torch.testing.assert_close(reached, wanted, rtol=1e-3, atol=1e-4)
        with torch.inference_mode():
            plain = fast(modality, inputs, None)
        torch.testing.assert_close(plain, pair(modality, inputs, None), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layers", "width", "message"),
    [
        (LAYERS + 1, 2, f"{LAYERS + 1} prefixes do not fit a tower of {LAYERS}"),
        (1, 3, "of 3 has no"),
    ],
)
def test_prefixes_that_do_not_fit_are_refused(
    pair: TowerPair, layers: int, width: int, message: str
) -> None:
    prefixes = [torch.zeros(1, width, pair.shape.vision_width)] * layers
    with pytest.raises(ValueError, match=message):
        pair("vision", inputs_for(pair, "vision"), prefixes, "prefix")


def test_overwriting_takes_the_place_of_the_first_tokens() -> None:
    """A class token that stayed would be another model than the one that is compared with."""
    tokens, prompt = torch.arange(10.0).reshape(1, 5, 2), -torch.ones(1, 1, 3, 2)
    tower = torch.nn.Identity()
    entry = PromptEntry([torch.nn.Identity()], first=1)
    entry.insert_after(tower)
    with entry.active(prompt, "overwrite"):
        assert torch.equal(tower(tokens), torch.cat([prompt[0], tokens[:, 3:]], dim=1))
    with entry.active(prompt):
        assert tower(tokens).shape[1] == 8

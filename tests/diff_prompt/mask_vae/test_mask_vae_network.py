from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from system.config.compose import composed_values
from system.config.parse import parse_dataclass
from system.diff_prompt.mask_vae.mask_vae_network import (
    RANGES,
    MaskVaeConfig,
    build_mask_vae,
    mask_vae_loss,
)
from system.diff_prompt.mask_vae.mask_vae_training import MaskVaeSettings
from system.diff_prompt.mask_vae.object_pixels import object_pixels
from system.errors import ConfigError
from tests.diff_prompt.mask_files import compressed, shape


def stage_settings(name: str) -> MaskVaeSettings:
    """The settings of a stage's YAML."""
    values = composed_values([f"stage={name}"])["stage"]
    return parse_dataclass(MaskVaeSettings, values, "config.stage")


SMALL = MaskVaeConfig(image_size=32, channels=(4, 8), latent_channels=2, norm_groups=2)


@pytest.mark.parametrize("name", ["mask_vae", "mask_vae_released"])
def test_both_full_sizes_give_the_released_latent(name: str) -> None:
    """The released generator works on 4 x 28 x 28; another size could not use its weights."""
    config = stage_settings(name).vae
    vae = build_mask_vae(config, seed=0)
    with torch.no_grad():
        moments = vae.encode(torch.zeros(1, 1, 224, 224)).latent_dist
        image = vae.decode(moments.mode()).sample
    assert tuple(moments.mean.shape[1:]) == config.latent_shape == (4, 28, 28)
    assert image.shape == (1, 1, 224, 224)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    """A resumed or repeated run must begin from the same weights, whatever was drawn before."""
    torch.rand(3)
    before = torch.random.get_rng_state()
    first = build_mask_vae(SMALL, seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    second, other = (build_mask_vae(SMALL, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("image_size", {"image_size": 30, "channels": (4, 8, 8), "norm_groups": 4}),
        ("norm_groups", {"channels": (6, 8), "norm_groups": 4}),
        ("channels", {"channels": ()}),
        ("latent_channels", {"latent_channels": 0}),
        ("mask_range", {"mask_range": (0, 255)}),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(field: str, values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=field):
        MaskVaeConfig(**values)  # type: ignore[arg-type]


def test_standard_normal_latent_and_exact_reconstruction_cost_nothing() -> None:
    mask = torch.ones(2, 1, 8, 8)
    zeros = torch.zeros(2, 2, 4, 4)
    loss = mask_vae_loss(mask, mask, zeros, zeros, kl_weight=1.0)
    assert float(loss.total) == 0.0
    far = mask_vae_loss(mask, mask, zeros + 2, zeros, kl_weight=0.5)
    assert float(far.kl) == pytest.approx(4.0)  # 0.5 x 2^2 in each of two channels
    assert float(far.total) == pytest.approx(2.0)


def test_negative_divergence_weight_is_refused() -> None:
    mask, zeros = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)
    with pytest.raises(ConfigError, match="kl_weight"):
        mask_vae_loss(mask, mask, zeros, zeros, kl_weight=-1.0)


@pytest.mark.parametrize("mask_range", RANGES)
def test_iou_counts_pixels_and_agrees_on_two_empty_masks(mask_range: tuple[int, int]) -> None:
    """An empty reconstruction of an empty mask is right, of a mask that covers something wrong.

    With the threshold of the other range, what a decoder is unsure of (0.3 of 1) would be covered.
    """
    sizes = replace(SMALL, mask_range=mask_range)
    low, high = mask_range
    empty = torch.full((1, 1, 4, 4), low + 0.3 * (high - low))
    half, full = empty.clone(), torch.full_like(empty, high)
    half[..., :2] = low + 0.6 * (high - low)
    first = torch.cat([empty, empty, half, half])
    second = torch.cat([empty, half, half, full])
    assert sizes.iou(first, second).tolist() == [1.0, 0.0, 1.0, 0.5]


def test_masks_have_the_two_values_of_their_range() -> None:
    """The released Mask-VAE learned masks in [0, 1]; it decodes nothing sensible of others."""
    masks = [compressed(shape("disk", 0)), compressed(shape("disk", 0) * np.uint8(0))]
    for low, high in RANGES:
        sizes = replace(SMALL, mask_range=(low, high))
        pixels = object_pixels(sizes, masks)
        assert pixels.shape == (2, 1, 32, 32)
        assert set(pixels[0].flatten().tolist()) == {low, high}
        assert set(pixels[1].flatten().tolist()) == {low}  # without area: all outside
        signed = sizes.signed(pixels)
        assert set(signed.flatten().tolist()) == {-1.0, 1.0}
        assert torch.equal(sizes.ranged(signed), pixels)

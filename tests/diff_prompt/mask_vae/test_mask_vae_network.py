from __future__ import annotations

import pytest
import torch

from system.diff_prompt.mask_vae.mask_vae_network import (
    MaskVaeConfig,
    build_mask_vae,
    mask_iou,
    mask_vae_loss,
)
from system.errors import ConfigError

SMALL = MaskVaeConfig(image_size=32, channels=(4, 8), latent_channels=2, norm_groups=2)


def test_published_sizes_give_the_published_latent() -> None:
    """The released generator works on 4 x 28 x 28; another size could not use its weights."""
    config = MaskVaeConfig()
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


def test_iou_counts_pixels_and_agrees_on_two_empty_masks() -> None:
    """An empty reconstruction of an empty mask is right, of a mask that covers something wrong."""
    empty, half = -torch.ones(1, 1, 4, 4), -torch.ones(1, 1, 4, 4)
    half[..., :2] = 1.0
    full = torch.ones(1, 1, 4, 4)
    first = torch.cat([empty, empty, half, half])
    second = torch.cat([empty, half, half, full])
    assert mask_iou(first, second).tolist() == [1.0, 0.0, 1.0, 0.5]

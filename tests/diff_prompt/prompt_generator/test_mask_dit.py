from __future__ import annotations

import pytest
import torch

from system.diff_prompt.prompt_generator.mask_dit import MaskDiT, MaskDitConfig

SMALL = MaskDitConfig(latent_channels=2, latent_size=8, depth=2, width=16, heads=2)


def _inputs(config: MaskDitConfig, batch: int = 3) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    return (
        torch.randn(
            batch, config.latent_channels, config.latent_size, config.latent_size, generator=draw
        ),
        torch.arange(batch) * 7,
        torch.randn(batch, config.width, generator=draw),
        torch.randn(batch, config.width, generator=draw),
    )


def _stirred(config: MaskDitConfig) -> MaskDiT:
    """A network without the zeros it starts from."""
    network, draw = MaskDiT(config, seed=1), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return network


def test_untrained_network_predicts_zero() -> None:
    """adaLN-Zero: training starts from the identity, not from noise."""
    output = MaskDiT(SMALL, seed=0)(*_inputs(SMALL))
    assert output.shape == (3, 4, 8, 8)
    assert output.abs().max() == 0


def test_every_input_matters_and_samples_stay_apart() -> None:
    """A condition that is not read would make the same mask for every expression."""
    network, inputs = _stirred(SMALL), _inputs(SMALL)
    with torch.no_grad():
        plain = network(*inputs)
        for index in range(4):
            changed = list(inputs)
            changed[index] = changed[index].clone()
            changed[index][0] += 1
            other = network(*changed)
            assert not torch.allclose(plain[0], other[0], atol=1e-5), index
            torch.testing.assert_close(plain[1:], other[1:])


@pytest.mark.slow
def test_published_sizes_take_a_training_step() -> None:
    config = MaskDitConfig()
    network = MaskDiT(config, seed=0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    latent, timestep, image, text = _inputs(config, batch=1)
    loss = (network(latent, timestep, image, text)[:, :4] - latent).square().mean()
    loss.backward()
    optimiser.step()
    assert network.pos_embed.grad is None
    assert network(latent, timestep, image, text).abs().max() > 0
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained == 77_058_592


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("latent_size", {"latent_size": 7}),
        ("heads", {"width": 20, "heads": 8}),
        ("multiple of 4", {"width": 6, "heads": 2}),
        ("depth", {"depth": 0}),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(field: str, values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=field):
        MaskDitConfig(**values)

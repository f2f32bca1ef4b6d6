from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from system.diff_prompt.prompt_generator.noise import DiffusionTraining, NoiseSchedule
from system.diff_prompt.prompt_generator.sampling import conditioned, ddim_path
from system.errors import ConfigError
from system.methods.parts import sample_noise


@pytest.mark.parametrize("steps", [5, 10, 25, 50, 100])
def test_a_model_that_knows_the_clean_latent_arrives_there(steps: int) -> None:
    """Any number of steps must end at a clean latent, not one step short of it."""
    schedule = NoiseSchedule()
    training = DiffusionTraining(schedule)
    clean = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    kept = training.scheduler.alphas_cumprod

    def model(latent: Tensor, timestep: Tensor) -> Tensor:
        left = kept[timestep][:, None, None, None]
        noise: Tensor = (latent - left.sqrt() * clean) / (1 - left).sqrt()
        return noise

    path = list(ddim_path(model, sample_noise((3, 4, 4), 0, [0, 1]), schedule, steps))
    assert len(path) == steps
    torch.testing.assert_close(path[-1], clean, atol=1e-3, rtol=1e-3)


def test_steps_that_do_not_divide_the_training_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps=30"):
        list(ddim_path(lambda x, t: x, torch.zeros(1, 1, 2, 2), NoiseSchedule(), 30))


class _Network(nn.Module):
    """Its noise is the condition's first feature everywhere; the second half is variance."""

    calls = 0

    def forward(self, latent: Tensor, timestep: Tensor, image: Tensor, text: Tensor) -> Tensor:
        self.calls += 1
        value = (image[:, :1] + 2 * text[:, :1])[..., None, None]
        return value.expand(-1, 2 * latent.shape[1], *latent.shape[2:])


def test_guidance_goes_on_from_the_prediction_without_a_condition() -> None:
    network = _Network()
    image, text = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]])
    latent, timestep = torch.zeros(2, 4, 2, 2), torch.zeros(2, dtype=torch.long)
    plain = conditioned(network, image, text)(latent, timestep)
    guided = conditioned(network, image, text, guidance=3.0)(latent, timestep)
    assert plain[:, 0, 0, 0].tolist() == [7.0, 12.0]
    assert guided[:, 0, 0, 0].tolist() == [21.0, 36.0]
    assert network.calls == 2


def test_a_samples_noise_is_its_own_in_any_batch() -> None:
    """Latents kept from one run must fit the samples of the next, however these are batched."""
    together = sample_noise((2, 4, 4), 7, [3, 4, 5])
    assert torch.equal(together[1], sample_noise((2, 4, 4), 7, [4])[0])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[0], sample_noise((2, 4, 4), 8, [3])[0])

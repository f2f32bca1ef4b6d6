from __future__ import annotations

import pytest
import torch
from torch import nn

from system.methods.prompt_adapter import PromptAdapter, PromptAdapterConfig


@pytest.mark.parametrize("image_size", [224, 64, 50])
def test_half_of_the_prompt_is_the_masks_and_half_the_layers(image_size: int) -> None:
    adapter = PromptAdapter(PromptAdapterConfig(3, 6, image_size=image_size), seed=0)
    masks = torch.randn(2, 1, image_size, image_size, generator=torch.Generator().manual_seed(0))
    first, last = adapter(masks, 0), adapter(masks, 2)
    assert first.shape == (2, 8, 6)
    assert torch.equal(first[:, :4], last[:, :4])  # the same masks
    assert not torch.equal(first[0, :4], first[1, :4])  # other masks
    assert torch.equal(first[0, 4:], first[1, 4:])  # the same layer
    assert not torch.equal(first[:, 4:], last[:, 4:])  # another layer


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_wider_adapter_has_so_many_times_the_channels(times: int) -> None:
    adapter = PromptAdapter(PromptAdapterConfig(3, 6, image_size=64, channels=times), seed=0)
    assert adapter.model is not None
    outside = [each.out_channels for each in adapter.model if isinstance(each, nn.Conv2d)]
    assert outside == [times * published for published in (1, 2, 4, 8, 16)]
    assert adapter(torch.zeros(2, 1, 64, 64), 0).shape == (2, 8, 6)


def test_odd_prompt_length_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt_length=7"):
        PromptAdapterConfig(3, 6, prompt_length=7)

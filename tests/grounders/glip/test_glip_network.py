"""The network's losses, and a step of prompts at GLIP-T (A)'s published sizes."""

import resource
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from system.config.compose import compose
from system.grounders.glip.glip import Glip
from system.grounders.glip.glip_config import GlipConfig
from system.grounders.glip.glip_files import build_network
from system.grounders.glip.glip_inputs import Pictures
from system.grounders.glip.glip_network import token_mean
from system.grounders.grounder import GroundingBatch
from system.grounders.tokens import Tokens
from system.methods.base import GroundingSetting, build_task_method
from tests.grounders.small_glip import IMAGE_SIZE, glip_config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "side", "least", "most"),
    [
        ("lpi_rec_released", 448, 12_364, 12_364),
        ("diff_prompt_released", 224, 21_800_000, 22_000_000),
    ],
)
def test_a_training_step_of_both_papers_at_published_sizes(
    experiment: str, side: int, least: int, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Small models could hide what depends on 7 x 7 windows, padding or five levels."""
    config = replace(GlipConfig(), pictures=Pictures("squeeze", side))
    grounder = Glip(build_network(config), tokenizer=_NoTokenizer())
    composed = compose([f"experiment={experiment}"])
    if composed.grounder is not None and composed.grounder.upsampling is not None:
        grounder.upsample(composed.grounder.upsampling)
    setting = GroundingSetting(grounder.shape, seed=0, masks=_LatentsAreMasks())
    method = build_task_method(composed.method, setting)
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[101, 1996, 3899, 102]])
    batch = GroundingBatch(
        torch.randn(1, 3, side, side, generator=generator),
        Tokens(ids, torch.ones_like(ids)),
        [torch.tensor([[0.2, 0.3, 0.7, 0.8]])],
    )
    layers = 0 if method.latent_needs is None else method.latent_needs.layers
    masks = torch.rand(1, layers, 1, 224, 224, generator=generator) if layers else None
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4)
    before = [value.detach().clone() for value in method.parameters()]
    start = time.perf_counter()
    terms = grounder.losses(batch, method.entries(grounder, batch, masks))
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    optimizer.step()
    seconds = time.perf_counter() - start
    moved = [not torch.equal(*pair) for pair in zip(before, method.parameters(), strict=True)]
    assert all(moved)
    frozen = sum(value.numel() for value in grounder.parameters())
    trained = sum(value.numel() for value in method.parameters())
    assert 27e6 < sum(v.numel() for v in grounder.network.vision.parameters()) < 29e6  # Swin-T
    assert 108e6 < sum(v.numel() for v in grounder.network.text.parameters()) < 110e6  # BERT-base
    assert least <= trained <= most
    with capsys.disabled():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(  # noqa: T201
            f"\n{experiment}, one image of {side} x {side}: {seconds:.1f} s a step, "
            f"{trained:,} trained, {frozen:,} frozen, peak {peak:,.0f} MB"
        )


class _NoTokenizer:
    """BERT's words are not in the package; the ids above are given."""

    all_special_ids = (0, 100, 101, 102)
    unk_token_id = 100
    pad_token_id = 0


class _LatentsAreMasks:
    """What a Mask-VAE would decode is given."""

    image_size = 224

    def __call__(self, latents: Tensor) -> Tensor:
        return latents


def test_token_mean_is_over_each_samples_own_tokens() -> None:
    """Padding or another sample's length in the mean would change a region's score."""
    values = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[5.0, 6.0, 7.0, 8.0]]])
    words = torch.tensor([[False, True, True, False], [False, False, False, False]])
    assert token_mean(values, words).tolist() == [[2.5], [0.0]]


def test_a_sample_without_a_target_has_finite_losses() -> None:
    """A scene without the object is a negative: its words are learned, its boxes are not."""
    network = build_network(glip_config(9))
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 4, 2], [1, 5, 2]])
    dense = network.locate(network.see(images), network.read(ids, torch.ones_like(ids)))
    words, tokens = [torch.tensor([[False, True, False]])] * 2, torch.ones_like(ids).bool()
    some = [torch.tensor([[4.0, 4.0, 20.0, 20.0]]), torch.zeros(0, 4)]
    terms = network.losses(dense, some, words, tokens)
    assert all(torch.isfinite(term).all() for term in terms.values())
    assert terms["words"][1] > 0
    assert terms["boxes"][1].item() == terms["centreness"][1].item() == 0
    none = network.losses(dense, [torch.zeros(0, 4)] * 2, words, tokens)
    torch.testing.assert_close(none["words"][1], terms["words"][1])

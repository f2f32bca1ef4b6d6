"""The network's losses, and a step of prompts at GLIP-T (A)'s published sizes."""

import resource

import pytest
import torch

from system.grounders.glip_style import GlipStyle
from system.grounders.grounder import Entries, GroundingBatch, Tokens
from system.grounders.simple_glip.glip_config import GlipConfig
from system.grounders.simple_glip.glip_files import build_network
from system.grounders.simple_glip.glip_network import word_mean
from tests.grounders.simple_glip.small_simple_glip import IMAGE_SIZE, glip_config


@pytest.mark.slow
def test_a_training_step_of_prompts_at_published_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """Small models could hide what depends on 7 x 7 windows, padding or five levels."""
    grounder = GlipStyle(build_network(GlipConfig()), tokenizer=_NoTokenizer())
    shape = grounder.shape
    generator = torch.Generator().manual_seed(0)
    entries = Entries(
        vision=[torch.randn(1, 8, w, generator=generator) for w in shape.vision_widths[:9]],
        text=[torch.randn(1, 8, w, generator=generator) for w in shape.text_widths[:9]],
    )
    prompts = [prompt.requires_grad_() for prompt in (*entries.vision, *entries.text)]
    ids = torch.tensor([[101, 1996, 3899, 102]])
    batch = GroundingBatch(
        torch.randn(1, 3, 224, 224, generator=generator),
        Tokens(ids, torch.ones_like(ids)),
        [torch.tensor([[0.2, 0.3, 0.7, 0.8]])],
    )
    optimizer = torch.optim.AdamW(prompts, lr=1e-4)
    before = [prompt.detach().clone() for prompt in prompts]
    torch.autograd.backward(torch.stack(list(grounder.losses(batch, entries).values())).sum())
    optimizer.step()
    assert all(not torch.equal(one, other) for one, other in zip(before, prompts, strict=True))
    frozen = sum(value.numel() for value in grounder.parameters())
    trained = sum(prompt.numel() for prompt in prompts)
    assert 27e6 < sum(v.numel() for v in grounder.network.vision.parameters()) < 29e6  # Swin-T
    assert 108e6 < sum(v.numel() for v in grounder.network.text.parameters()) < 110e6  # BERT-base
    assert trained == 8 * (2 * 96 + 2 * 192 + 5 * 384 + 9 * 768)
    with capsys.disabled():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"\n{frozen:,} frozen, {trained:,} trained, peak {peak:,.0f} MB")  # noqa: T201


class _NoTokenizer:
    """BERT's words are not in the package; the ids above are given."""

    all_special_ids = (0, 100, 101, 102)
    unk_token_id = 100


def test_word_mean_is_over_each_samples_own_words() -> None:
    """Padding or another sample's length in the mean would change a region's score."""
    values = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[5.0, 6.0, 7.0, 8.0]]])
    words = torch.tensor([[False, True, True, False], [False, False, False, False]])
    assert word_mean(values, words).tolist() == [[2.5], [0.0]]


def test_a_sample_without_a_target_has_finite_losses() -> None:
    """A scene without the object is a negative: its words are learned, its boxes are not."""
    network = build_network(glip_config(9))
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 4, 2], [1, 5, 2]])
    dense = network.locate(network.see(images), network.read(ids, torch.ones_like(ids)))
    words, tokens = torch.tensor([[False, True, False]] * 2), torch.ones_like(ids).bool()
    some = [torch.tensor([[4.0, 4.0, 20.0, 20.0]]), torch.zeros(0, 4)]
    terms = network.losses(dense, some, words, tokens)
    assert all(torch.isfinite(term).all() for term in terms.values())
    assert terms["words"][1] > 0
    assert float(terms["boxes"][1]) == float(terms["centreness"][1]) == 0
    none = network.losses(dense, [torch.zeros(0, 4)] * 2, words, tokens)
    torch.testing.assert_close(none["words"][1], terms["words"][1])

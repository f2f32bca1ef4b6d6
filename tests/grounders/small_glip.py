"""A GLIP, small and random, saved in its own format."""

from pathlib import Path

import torch

from system.backbones.computation import Computation
from system.backbones.pretrain_clip import build_tokenizer
from system.grounders.entries import Entries
from system.grounders.glip.glip import Glip, load_glip
from system.grounders.glip.glip_config import (
    GlipConfig,
    HeadSizes,
    Selection,
    TextSizes,
    VisionSizes,
)
from system.grounders.glip.glip_files import build_network, save_glip
from system.grounders.glip.glip_inputs import Pictures
from system.grounders.grounder import GroundingBatch

WORDS = ["a", "red", "dog", "on", "the", "hill", "left"]
TEXTS = ["a red dog", "the hill", "the dog on the red hill"]
IMAGE_SIZE = 32
BOXES = [[[0.1, 0.1, 0.6, 0.7]], [[0.5, 0.2, 0.9, 0.8], [0.0, 0.0, 0.4, 0.3]], [[0.2, 0.5, 0.7, 1]]]


def glip_config(vocabulary: int) -> GlipConfig:
    """Three stages, of which two make the pyramid, and one more level; windows are shifted."""
    return GlipConfig(
        vision=VisionSizes(embed_dim=8, depths=(2, 1, 1), num_heads=(1, 2, 2), window_size=4),
        text=TextSizes(
            vocab_size=vocabulary,
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=12,
        ),
        head=HeadSizes(
            stages=(2, 3),
            extra_levels=1,
            channels=16,
            blocks=2,
            norm_groups=4,
            anchor_scale=2.0,
            nearest_anchors=4,
        ),
        selection=Selection(candidates=40, overlap=0.6, most=10),
        pictures=Pictures(
            size_rule="squeeze",
            image_size=IMAGE_SIZE,
            channels="rgb",
            mean=(127.5, 102.0, 76.5),
            std=(51.0, 63.75, 76.5),
            box_end="edge",
        ),
        context_length=10,
    )


def write_small_glip(directory: Path, words: list[str] | None = None, *, seed: int = 0) -> Path:
    """Save a random grounder and its tokenizer under `directory`."""
    tokenizer = build_tokenizer(WORDS if words is None else words, 10)
    network = build_network(glip_config(len(tokenizer)), seed)
    with torch.no_grad():  # as started, all scores are near the prior and boxes near the anchors
        generator = torch.Generator().manual_seed(seed)
        for value in network.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)
    save_glip(directory, network, tokenizer)
    return directory


def loaded(directory: Path, computation: Computation = Computation()) -> Glip:  # noqa: B008
    """What our loader makes of a checkpoint."""
    grounder = load_glip(str(directory), computation)
    assert isinstance(grounder, Glip)
    return grounder


def some_batch(grounder: Glip, chosen: tuple[int, ...] = (0, 1, 2)) -> GroundingBatch:
    """Images, expressions and boxes of the chosen of three samples."""
    images = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(5))
    return GroundingBatch(
        images[list(chosen)],
        grounder.tokenize([TEXTS[i] for i in chosen]),
        [torch.tensor(BOXES[i]) for i in chosen],
    )


def some_entries(grounder: Glip, chosen: tuple[int, ...] = (0, 1, 2), length: int = 2) -> Entries:
    """A prompt for each layer: the vision tower's own for each sample, the text tower's shared."""
    generator = torch.Generator().manual_seed(7)
    shape = grounder.shape
    vision = [torch.randn(3, length, w, generator=generator) for w in shape.vision_widths]
    text = [torch.randn(1, length, w, generator=generator) for w in shape.text_widths]
    return Entries(vision=[prompt[list(chosen)] for prompt in vision], text=text)

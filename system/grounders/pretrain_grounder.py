"""Pre-training of a small GLIP on the embedded benchmark's web expressions.

It runs once; its result ships with the package (`system/backbones/tiny_grounder`) in half
precision. The loss is the grounder's own.

Legend: B batch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from system.backbones.pretrain_clip import IMAGE_MEAN, IMAGE_STD, build_tokenizer
from system.backbones.pretrain_loop import CHECKPOINT, Progress, train, update, write_json
from system.data.embedded.pictograms import Catalogue, catalogue
from system.data.embedded.scenes import SIZE
from system.data.embedded.web_scenes import (
    PlaceHabit,
    box_of,
    expression_words,
    web_expressions,
)
from system.grounders.glip.glip import Glip
from system.grounders.glip.glip_config import (
    GlipConfig,
    HeadSizes,
    Selection,
    TextSizes,
    VisionSizes,
)
from system.grounders.glip.glip_files import build_network, save_glip
from system.grounders.glip.glip_inputs import Pictures


@dataclass(frozen=True)
class GrounderPretrainConfig:
    """Size of the model and recipe of its pre-training; `seed` fixes everything."""

    seed: int = 0
    embed_dim: int = 32
    depths: tuple[int, ...] = (2, 2, 2)
    num_heads: tuple[int, ...] = (2, 4, 8)
    window_size: int = 4
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    text_mlp_width: int = 256
    context: int = 24
    stages: tuple[int, ...] = (2, 3)
    channels: int = 64
    extra_levels: int = 1
    blocks: int = 2
    anchor_scale: float = 3.0
    pictograms_per_task: int = 32
    steps: int = 600
    batch_size: int = 32  # scenes, each with four expressions
    learning_rate: float = 1e-3
    last_rate_share: float = 0.02
    weight_decay: float = 0.05
    warmup_steps: int = 50
    checkpoint_every: int = 100
    habit: PlaceHabit = field(default_factory=PlaceHabit)

    def grounder(self, words: int) -> GlipConfig:
        """The sizes of the model for a vocabulary of so many tokens."""
        return GlipConfig(
            vision=VisionSizes(self.embed_dim, self.depths, self.num_heads, self.window_size),
            text=TextSizes(
                vocab_size=words,
                hidden_size=self.text_width,
                num_hidden_layers=self.text_layers,
                num_attention_heads=self.text_heads,
                intermediate_size=self.text_mlp_width,
                max_position_embeddings=self.context,
            ),
            head=HeadSizes(
                stages=self.stages,
                extra_levels=self.extra_levels,
                channels=self.channels,
                blocks=self.blocks,
                anchor_scale=self.anchor_scale,
            ),
            selection=Selection(candidates=64, overlap=0.6, most=32),
            pictures=Pictures(
                size_rule="squeeze",
                image_size=SIZE,
                channels="rgb",
                resampling="bicubic",
                mean=(255 * IMAGE_MEAN,) * 3,
                std=(255 * IMAGE_STD,) * 3,
                box_end="edge",
            ),
            context_length=self.context,
        )


@dataclass(frozen=True)
class WebBatch:
    """Scenes, and for each the expressions and boxes of four of its pictograms, together."""

    pixels: Tensor  # (B, 3, SIZE, SIZE)
    texts: list[str]  # 4 B
    boxes: Tensor  # (4 B, 4), pixels


def web_batch(config: GrounderPretrainConfig, pictograms: Catalogue, step: int) -> WebBatch:
    """The batch of one step, from its own random numbers."""
    # Three numbers: the benchmark seeds with four, the small CLIP's pre-training with two.
    rng = np.random.default_rng([config.seed + 1, step, 0])
    drawn = [web_expressions(rng, pictograms, config.habit) for _ in range(config.batch_size)]
    pictures = np.stack([scene.pixels for scene, _ in drawn])
    boxes = [box_of(pictograms, placed) for _, named in drawn for placed, _ in named]
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    texts = [text for _, named in drawn for _, text in named]
    return WebBatch((pixels - IMAGE_MEAN) / IMAGE_STD, texts, torch.from_numpy(np.stack(boxes)))


def web_loss(grounder: Glip, batch: WebBatch) -> Tensor:
    """The sum of the grounder's loss terms, mean over all expressions.

    The image's tower and head run once for all expressions of a scene.
    """
    network, tokens = grounder.network, grounder.tokenize(batch.texts)
    levels = network.see(batch.pixels)
    dense = network.locate(levels, network.read(tokens.ids, tokens.mask))
    rows = [row[None] for row in grounder.words(tokens)]
    terms = network.losses(dense, list(batch.boxes[:, None]), rows, tokens.mask)
    return torch.stack(list(terms.values())).sum(dim=0).mean()


def pretrain_grounder(
    config: GrounderPretrainConfig, output_dir: Path, progress: Progress | None = None
) -> None:
    """Pre-train a grounder and write it as `load_glip` reads it.

    Goes on from the checkpoint in `output_dir` if there is one, with the same result as without
    the interruption; the checkpoint is removed at the end. Raises StorageError for a checkpoint of
    another recipe.
    """
    pictograms = catalogue(config.pictograms_per_task)
    grounder = untrained(config, pictograms)
    network = grounder.network.requires_grad_(True)

    def make(step: int) -> WebBatch:
        return web_batch(config, pictograms, step)

    def step_on(optimizer: torch.optim.Optimizer, batch: WebBatch) -> float:
        return update(network, optimizer, web_loss(grounder, batch))

    loss = train(network, config, output_dir, make, step_on, progress)
    write_json(output_dir / "pretraining.json", {"recipe": asdict(config), "last_loss": loss})
    save_glip(output_dir, network, grounder.tokenizer, half=True)
    (output_dir / CHECKPOINT).unlink(missing_ok=True)


def untrained(config: GrounderPretrainConfig, pictograms: Catalogue) -> Glip:
    """The grounder before the first step."""
    tokenizer = build_tokenizer(expression_words(pictograms), config.context)
    return Glip(build_network(config.grounder(len(tokenizer)), config.seed), tokenizer)

"""`glip_style`: a frozen grounder of Swin and BERT with entries for prompts.

Legend: B batch, T tokens, A places of the pyramid, C its channels.
"""

import functools
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.func import functional_call
from typing_extensions import override

from system.backbones.computation import Computation
from system.backbones.dual_encoder import resolved
from system.backbones.fingerprint import digest
from system.config.schema import GrounderConfig
from system.errors import DataError
from system.grounders.detection import NO_CANDIDATE, LevelCandidates, best_boxes
from system.grounders.grounder import (
    Entries,
    Grounder,
    GrounderShape,
    GroundingBatch,
    ScoredBoxes,
    Span,
    Tokens,
    block_sides,
    covered,
    level_means,
    positive_mask,
)
from system.grounders.lockstep import Lockstep
from system.grounders.simple_glip.glip_config import Pictures
from system.grounders.simple_glip.glip_files import load_glip_parts
from system.grounders.simple_glip.glip_network import Dense, GlipNetwork, word_mean


class SquarePixels:
    """Squeezes an image to the square that a grounder takes; picklable.

    A box as shares of the sides stays where it is. No augmentation: one that moved the image would
    have to move boxes and words like "left" too.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> Tensor:
        """Pixels (3, size, size), float32; `rng` is not used."""
        size = self.pictures.image_size
        squeezed = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(squeezed).copy()).permute(2, 0, 1).float() / 255
        mean, std = (
            torch.tensor(values)[:, None, None]
            for values in (self.pictures.mean, self.pictures.std)
        )
        return (pixels - mean) / std

    def __str__(self) -> str:
        return f"squeezed to {self.pictures.image_size} x {self.pictures.image_size} pixels"


class GlipStyle(Grounder):
    """A `GlipNetwork`, frozen; without entries its outputs are the network's to the bit."""

    def __init__(
        self,
        network: GlipNetwork,
        tokenizer: Any,
        name: str = "glip_style",
        computation: Computation = Computation(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.computation = computation
        config = network.config
        self.shape = GrounderShape(
            vision_widths=config.vision.block_widths,
            text_widths=(config.text.hidden_size,) * config.text.num_hidden_layers,
            pyramid_widths=network.level_widths,
            image_size=config.pictures.image_size,
            context_length=config.context_length,
            feature_width=config.head.channels,
            level_sides=tuple(-(-config.pictures.image_size // side) for side in config.strides),
            vision_sides=block_sides(
                config.pictures.image_size, config.vision.patch_size, config.vision.depths
            ),
        )
        self._lockstep = Lockstep(network.vision, network.text)
        computation.apply(chain(network.vision_layers, network.text_layers))

    @override
    def train(self, mode: bool = True) -> "GlipStyle":
        """Stay in evaluation mode: a frozen grounder has no training behaviour."""
        return super().train(False)

    @override
    def ground(self, batch: GroundingBatch, entries: Entries) -> list[ScoredBoxes]:
        """The scored boxes of each sample, best first; no gradient is kept.

        A place's score is the square root of its centre-ness times the mean probability of the
        words that name the object (ATSS). With a threshold on that mean, a place at or below it is
        no candidate, however central.
        """
        selection = self.network.config.selection
        with torch.no_grad():
            dense = self.dense(batch, entries.each_alone())
            named = word_mean(dense.words.sigmoid(), self.words(batch.tokens))  # (B, A)
            scores = (named * dense.centreness.sigmoid()).sqrt()
            if self.selection.threshold:
                scores = scores.masked_fill(named <= self.selection.threshold, NO_CANDIDATE)
            boxes = (dense.boxes / _sides(batch.images)).clamp(0, 1)
            candidates: int | LevelCandidates = selection.candidates
            if self.selection.candidates_per_level is not None:
                candidates = LevelCandidates(
                    self.selection.candidates_per_level, dense.anchors.per_level
                )
            found = best_boxes(boxes, scores, candidates, selection.overlap, selection.most)
        return [ScoredBoxes(boxes, scores) for boxes, scores in found]

    @override
    def losses(self, batch: GroundingBatch, entries: Entries) -> dict[str, Tensor]:
        """The weighted terms `words`, `boxes` and `centreness`, each (B,)."""
        if len(batch.targets) != len(batch.images):
            raise ValueError(f"{len(batch.targets)} targets for {len(batch.images)} images")
        dense = self.dense(batch, entries)
        sides = _sides(batch.images)
        targets = [target.to(sides) * sides for target in batch.targets]
        tokens = batch.tokens.mask.bool()
        return self.network.losses(dense, targets, self.words(batch.tokens), tokens)

    def dense(self, batch: GroundingBatch, entries: Entries) -> Dense:
        """The head's outputs for every place."""
        tokens, length, added = batch.tokens, batch.tokens.ids.shape[1], entries.added
        if added is not None:
            tokens = tokens.padded(added.text_length, self.tokenizer.pad_token_id)
        with (
            self.computation.autocast(batch.images.device),
            self.network.prompted(entries.vision, entries.windows, entries.text, entries.context),
            self._lockstep.active(added, batch.images),
        ):
            words = self.network.read(tokens.ids, tokens.mask)[:, :length]
            levels = self.network.see(batch.images)
            if entries.adapt_level is not None:
                levels = [entries.adapt_level(i, level) for i, level in enumerate(levels)]
            if entries.adapt_text is not None:
                words = entries.adapt_text(words)
            given = (levels, words, entries.adapt_pyramid)
            if not entries.head:
                return self.network.locate(*given)
            found: Dense = functional_call(self.network, dict(entries.head), given)
            return found

    def words(self, tokens: Tokens) -> Tensor:
        """Mask (B, T) of the tokens that name the object: no padding, begin or end."""
        special = torch.tensor(self._special, device=tokens.ids.device)
        words = tokens.mask.bool() & ~torch.isin(tokens.ids, special)
        return words if tokens.positive is None else words & tokens.positive

    @property
    @override
    def head_layers(self) -> dict[str, Tensor]:
        """The convolutions to boxes and centre-ness, and all that makes scores of words."""
        names = ("head.box.", "head.centreness.", "word_scores.")
        every = self.network.named_parameters()
        return {name: value for name, value in every if name.startswith(names)}

    @override
    def image_features(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        with torch.no_grad(), self.computation.autocast(images.device):
            return level_means(self.network.see(images), covered(images, sizes))

    @override
    def text_features(self, tokens: Tokens) -> Tensor:
        """Mean over the expression's words as regions meet them, (B, C)."""
        with torch.no_grad(), self.computation.autocast(tokens.ids.device):
            read = self.network.read(tokens.ids, tokens.mask)
            known = self.network.word_scores.project(read).float()
        return word_mean(known.transpose(1, 2), self.words(tokens))

    @override
    def embed_text(self, tokens: Tokens) -> Tensor:
        """Word embeddings with their positions, normalised, (B, T, D)."""
        with self.computation.autocast(tokens.ids.device):
            embedded: Tensor = self.network.text.embeddings(tokens.ids)
        return embedded

    @override
    def tokenize(self, texts: Sequence[str], spans: Sequence[Sequence[Span]] = ()) -> Tokens:
        """Padded to the longest, cut to the context. Raises DataError for an empty expression."""
        for index, text in enumerate(texts):
            if not text.strip():
                raise DataError(
                    f"expression {index} of {len(texts)} is empty: there is nothing to look for; "
                    "leave it out",
                    kind="empty expression",
                )
        if not texts:
            empty = torch.zeros(0, 0, dtype=torch.long)
            return Tokens(empty, empty)
        # Special tokens that an expression spells out are split like its other words.
        encoded = self.tokenizer(
            list(texts),
            padding="longest",
            truncation=True,
            max_length=self.shape.context_length,
            split_special_tokens=True,
            return_tensors="pt",
            return_offsets_mapping=any(spans),
        )
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        if not any(spans):
            return Tokens(ids, mask)
        return Tokens(ids, mask, positive_mask(encoded["offset_mapping"].tolist(), spans))

    @override
    def token_counts(self, texts: Sequence[str]) -> list[int]:
        # Its warning of texts beyond the context is what this is for.
        encoded = self.tokenizer(list(texts), split_special_tokens=True, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    @override
    def image_transform(self) -> SquarePixels:
        return SquarePixels(self.network.config.pictures)

    @functools.cached_property
    @override
    def fingerprint(self) -> str:
        sizes = {"config": self.network.config.to_dict()}
        return digest(self.network, sizes, self.tokenizer)

    @functools.cached_property
    def _special(self) -> list[int]:
        tokenizer = self.tokenizer
        return [i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id]


def load_glip(path: str, computation: Computation = Computation()) -> GlipStyle:  # noqa: B008
    """A grounder from a local directory. Raises ConfigError as `load_glip_parts` does."""
    parts = load_glip_parts(path)
    return GlipStyle(parts.network, parts.tokenizer, path, computation)


def _sides(images: Tensor) -> Tensor:
    """Width, height, width, height in pixels (4,): what shares are of."""
    height, width = images.shape[-2:]
    return torch.tensor([width, height, width, height], device=images.device, dtype=torch.float32)


def _of_config(config: GrounderConfig) -> GlipStyle:
    return load_glip(resolved(config.path), Computation.of(config))


GROUNDER = _of_config

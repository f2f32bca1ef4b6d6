"""GLIP, frozen, with entries for prompts in its Swin and its BERT.

Li et al. 2022, "Grounded language-image pre-training", arXiv 2112.03857.

Legend: B batch, T tokens, A places of the pyramid, C its channels.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from typing_extensions import override

from system.backbones.computation import Computation
from system.backbones.dual_encoder import resolved
from system.backbones.fingerprint import digest
from system.config.schema import GrounderConfig, ImageSizeConfig, Upsampling
from system.errors import ConfigError, DataError
from system.grounders.entries import Entries, ImagePlace
from system.grounders.glip.box_selection import (
    SelectionRules,
    label_probabilities,
    resize_boxes,
    select_boxes,
)
from system.grounders.glip.glip_files import load_glip_parts
from system.grounders.glip.glip_inputs import SIDE_MULTIPLE, GlipPixels, last_pixel_boxes
from system.grounders.glip.glip_network import Dense, GlipNetwork, token_mean
from system.grounders.glip.published_checkpoint import load_published
from system.grounders.glip.published_sizes import PublishedOptions
from system.grounders.grounder import (
    GrounderShape,
    GroundingBatch,
    KeepingGrounder,
    ScoredBoxes,
    block_sides,
    covered,
    level_means,
)
from system.grounders.lockstep import Lockstep
from system.grounders.tokens import Span, Tokens, positive_mask
from system.uris import expanded


class Glip(KeepingGrounder):
    """A `GlipNetwork`, frozen; without entries its outputs are the network's to the bit."""

    side_multiple = SIDE_MULTIPLE

    def __init__(
        self,
        network: GlipNetwork,
        tokenizer: Any,
        name: str = "glip",
        computation: Computation = Computation(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.computation = computation
        config = network.config
        side = config.pictures.square_side  # with its padding
        self.shape = GrounderShape(
            vision_widths=config.vision.block_widths,
            text_widths=(config.text.hidden_size,) * config.text.num_hidden_layers,
            pyramid_widths=network.level_widths,
            image_size=config.pictures.image_size,
            context_length=config.context_length,
            feature_width=config.head.channels,
            level_sides=tuple(-(-side // stride) for stride in config.strides) if side else (),
            vision_sides=block_sides(side, config.vision.patch_size, config.vision.depths),
        )
        self._lockstep = Lockstep(network.vision, network.text)
        self.tower_layers = (*network.vision_layers, *network.text_layers)
        computation.apply(self.tower_layers)

    @override
    def train(self, mode: bool = True) -> "Glip":
        """Stay in evaluation mode: a frozen grounder has no training behaviour."""
        return super().train(False)

    @override
    def upsample(self, upsampling: Upsampling) -> None:
        self.network.upsample(upsampling)

    @override
    def ground(self, batch: GroundingBatch, entries: Entries) -> list[ScoredBoxes]:
        """The scored boxes of each sample, best first; no gradient is kept.

        A place's score is the square root of its centreness times the mean probability of the
        tokens that name the object (ATSS): see `select_boxes`.
        """
        own = self.network.config.selection
        rules = SelectionRules(
            self.selection.threshold,
            self.selection.candidates_per_level,
            own.candidates,
            own.overlap,
            own.most,
        )
        with torch.no_grad():
            dense = self.dense(batch, entries.each_alone())
            named = label_probabilities(dense.tokens, self.words(batch.tokens)[:, None])
            sizes = _sizes(batch)
            found = select_boxes(
                dense.boxes, named, dense.centreness, dense.anchors.per_level, sizes, rules
            )
        return [
            ScoredBoxes(resize_boxes(each.boxes, size, (1, 1)), each.scores)
            for each, size in zip(found, sizes, strict=True)
        ]

    @override
    def losses(self, batch: GroundingBatch, entries: Entries) -> dict[str, Tensor]:
        """The weighted terms `words`, `boxes` and `centreness`, each (B,)."""
        if len(batch.targets) != len(batch.images):
            raise ValueError(f"{len(batch.targets)} targets for {len(batch.images)} images")
        dense = self.dense(batch, entries)
        targets = [
            resize_boxes(target.to(batch.images.device), (1, 1), size)
            for target, size in zip(batch.targets, _sizes(batch), strict=True)
        ]
        rows = [row[None] for row in self.words(batch.tokens)]
        return self.network.losses(dense, targets, rows, batch.tokens.mask)

    @override
    def learned_boxes(self, boxes: Tensor, width: int, height: int) -> Tensor:
        if self.network.config.pictures.box_end == "edge":
            return boxes
        return last_pixel_boxes(boxes, width, height)

    def dense(self, batch: GroundingBatch, entries: Entries) -> Dense:
        """The head's outputs for every place."""
        tokens, length, added = batch.tokens, batch.tokens.ids.shape[1], entries.added
        if added is not None:
            tokens = tokens.padded(added.text_length, self.tokenizer.pad_token_id)
        kept, reach = batch.kept, entries.reach
        assert kept.place in (None, reach.image, "levels" if reach.image else None), "no pixels"
        with (
            self.computation.autocast(batch.images.device),
            self.network.prompted(entries.vision, entries.windows, entries.text, entries.context),
            self._lockstep.active(added, batch.images),
        ):
            words = kept.words
            if words is None or reach.text:
                words = self.network.read(tokens.ids, tokens.mask)[:, :length]
            regions = list(kept.image)
            if kept.place != "regions":
                levels = regions or self.network.see(batch.images)
                if entries.adapt_level is not None:
                    levels = [entries.adapt_level(i, level) for i, level in enumerate(levels)]
                regions = self.network.regions(levels, entries.adapt_pyramid)
            if entries.adapt_text is not None:
                words = entries.adapt_text(words)
            if not entries.head:
                return self.network.predict(regions, words)
            # `head_layers` are all of what predicts.
            found: Dense = functional_call(self.network, dict(entries.head), (regions, words))
            return found

    def words(self, tokens: Tokens) -> Tensor:
        """Mask (B, T) of the tokens that name the object: no padding, begin or end."""
        special = torch.tensor(self._special, device=tokens.ids.device)
        words = tokens.mask.bool() & ~torch.isin(tokens.ids, special)
        return words if tokens.positive is None else words & tokens.positive

    @property
    @override
    def head_layers(self) -> dict[str, Tensor]:
        """The convolutions to boxes and centreness, and all that makes scores of tokens."""
        names = ("predictions.", "token_scores.")
        every = self.network.named_parameters()
        return {name: value for name, value in every if name.startswith(names)}

    @override
    def image_features(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        with torch.no_grad(), self.computation.autocast(images.device):
            return level_means(self.network.see(images), covered(images, sizes))

    @override
    def image_outputs(
        self, images: Tensor, sizes: Tensor | None, place: ImagePlace
    ) -> tuple[list[Tensor], Tensor]:
        with torch.no_grad(), self.computation.autocast(images.device):
            levels = self.network.see(images)
            features = level_means(levels, covered(images, sizes))
            return levels if place == "levels" else self.network.regions(levels), features

    @override
    def text_outputs(self, tokens: Tokens) -> Tensor:
        with torch.no_grad(), self.computation.autocast(tokens.ids.device):
            return self.network.read(tokens.ids, tokens.mask)

    @override
    def coarsest_level(self, images: Tensor) -> Tensor:
        with torch.no_grad(), self.computation.autocast(images.device):
            level: Tensor = self.network.pyramid(self.network.see(images))[-1]
        return level

    @override
    def text_features(self, tokens: Tokens) -> Tensor:
        """Mean over the expression's words as regions meet them, (B, C)."""
        with torch.no_grad(), self.computation.autocast(tokens.ids.device):
            read = self.network.read(tokens.ids, tokens.mask)
            known = self.network.token_scores.features(read)
        return token_mean(known.transpose(1, 2), self.words(tokens))

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
    def image_transform(self) -> GlipPixels:
        return GlipPixels(self.network.config.pictures)

    @functools.cached_property
    @override
    def fingerprint(self) -> str:
        sizes: dict[str, Any] = {"config": self.network.config.to_dict()}
        if self.routing_feature != "level_means":
            sizes["routing_feature"] = self.routing_feature
        return digest(self.network, sizes, self.tokenizer)

    @functools.cached_property
    def _special(self) -> list[int]:
        tokenizer = self.tokenizer
        return [i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id]


def load_glip(
    path: str,
    computation: Computation = Computation(),  # noqa: B008 - frozen
    images: ImageSizeConfig = ImageSizeConfig(),  # noqa: B008 - frozen
    tokenizer: str | None = None,
) -> Glip:
    """A grounder from a local directory, or from a file of published weights.

    Its images come in the size that `images` says.
    Raises ConfigError and StorageError as `load_glip_parts` and `load_published` do, for a size
    that cannot be, and for a tokenizer to a directory, which has its own.
    """
    file = expanded(path)
    if file.is_file():
        options = PublishedOptions() if tokenizer is None else PublishedOptions(tokenizer)
        parts = load_published(file, options, f"grounder.path={path!r}")
    elif tokenizer is None:
        parts = load_glip_parts(path)
    else:
        raise ConfigError(
            f"grounder.tokenizer={tokenizer!r} is for a file of published weights; the directory "
            f"grounder.path={path!r} has its own tokenizer: leave the key out"
        )
    config = parts.network.config
    parts.network.config = replace(config, pictures=config.pictures.resized(images))
    return Glip(parts.network, parts.tokenizer, path, computation)


def _sizes(batch: GroundingBatch) -> list[tuple[int, int]]:
    """Height and width of each image without its padding."""
    if batch.sizes is None:
        return [(batch.images.shape[-2], batch.images.shape[-1])] * len(batch.images)
    return [(int(height), int(width)) for height, width in batch.sizes.tolist()]


def _of_config(config: GrounderConfig) -> Glip:
    return load_glip(resolved(config.path), Computation.of(config), config.images, config.tokenizer)


GROUNDER = _of_config

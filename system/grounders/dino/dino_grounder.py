"""The Grounding DINO family of `transformers`, frozen, with entries for prompts in Swin and BERT.

Legend: B batch, Q queries, T tokens, K boxes, P feature width.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from typing_extensions import override

from system.backbones.computation import Computation
from system.backbones.fingerprint import SWIN_SETTINGS, TOWER_SETTINGS, digest, named
from system.config.schema import ImageSizeConfig, SelectionConfig
from system.errors import ConfigError
from system.grounders.bert_prompts import BertPrompts
from system.grounders.dino.dino_images import DinoPixels, pixel_mask
from system.grounders.dino.dino_losses import loss_terms, sample_losses
from system.grounders.dino.dino_text import phrase_lengths, phrase_tokens
from system.grounders.entries import Entries
from system.grounders.grounder import (
    Grounder,
    GrounderShape,
    GroundingBatch,
    ScoredBoxes,
    block_sides,
    covered,
    level_means,
)
from system.grounders.lockstep import Lockstep
from system.grounders.swin_prompts import SwinPrompts
from system.grounders.tokens import Span, Tokens

BOXES = 100  # best queries that are handed on
HEAD_SETTINGS = (
    "d_model",
    "num_queries",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_n_points",
    "decoder_layers",
    "decoder_attention_heads",
    "decoder_n_points",
    "num_feature_levels",
    "activation_function",
    "position_embedding_type",
    "positional_embedding_temperature",
    "two_stage",
    "embedding_init_target",
    "max_text_len",
    "layer_norm_eps",
    "auxiliary_loss",
    "class_cost",
    "bbox_cost",
    "giou_cost",
    "bbox_loss_coefficient",
    "giou_loss_coefficient",
    "focal_alpha",
)


def level_sides(config: Any, side: int | None) -> tuple[int, ...]:
    """Side of each level behind the towers, of a square image: each of Swin's, then halved ones.

    None where images are of many sizes.
    """
    if side is None:
        return ()
    swin = config.backbone_config
    strides = [swin.patch_size * 2 ** (stage - 1) for stage in swin.out_indices]
    while len(strides) < config.num_feature_levels:
        strides.append(2 * strides[-1])
    return tuple(-(-side // stride) for stride in strides)


class GroundingDino(Grounder):
    """A Grounding DINO or MM-Grounding-DINO of `transformers` as a frozen grounder.

    The model's own class is left alone: prompts enter by hooks. A text is one phrase: its words
    and a closing stop, since the model lets words see each other between two stops alone.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        name: str = "grounding_dino",
        computation: Computation = Computation(),  # noqa: B008 - frozen
        images: ImageSizeConfig = ImageSizeConfig(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self._pixels = DinoPixels.of(image_processor, images)
        self.name = name
        self.computation = computation
        self._entries = Entries()
        self._length = 0  # of the texts of the batch at hand
        config = model.config
        swin = model.model.backbone.conv_encoder.model
        blocks = [block for stage in swin.swin.encoder.layers for block in stage.blocks]
        layers = model.model.text_backbone.encoder.layer
        side = self._pixels.side if self._pixels.rule == "squeeze" else None
        self.shape = GrounderShape(
            vision_widths=tuple(block.layernorm_before.normalized_shape[0] for block in blocks),
            text_widths=(config.text_config.hidden_size,) * len(layers),
            pyramid_widths=tuple(swin.channels),
            image_size=self._pixels.side,
            context_length=min(config.max_text_len, config.text_config.max_position_embeddings),
            feature_width=config.d_model,
            level_sides=level_sides(config, side),
            vision_sides=block_sides(side, swin.config.patch_size, swin.config.depths),
        )
        self._swin_prompts = SwinPrompts(blocks)
        self._bert_prompts = BertPrompts(model.model.text_backbone.encoder)
        self._lockstep = Lockstep(swin, model.model.text_backbone)
        swin.register_forward_hook(self._adapt_levels)
        model.model.text_backbone.register_forward_hook(self._adapt_text)
        model.model.encoder.register_forward_pre_hook(self._adapt_pyramid, with_kwargs=True)
        self.tower_layers = (*blocks, *layers)
        computation.apply(self.tower_layers)

    @override
    def train(self, mode: bool = True) -> "GroundingDino":
        """Stay in evaluation mode: a frozen grounder has no training behaviour."""
        return super().train(False)

    @override
    def select(self, selection: SelectionConfig) -> None:
        if selection.candidates_per_level is not None:
            raise ConfigError(
                f"grounder.selection.candidates_per_level={selection.candidates_per_level}: "
                "Grounding DINO's boxes are those of its queries, not of levels; set it to null, "
                "or take grounder=glip_t_a"
            )
        super().select(selection)

    def _words(self, tokens: Tokens) -> Tensor:
        """Mask (B, T) of the tokens that name the object: no begin, stop, end or padding."""
        special = self.model.model.special_tokens.to(tokens.ids.device)
        words = tokens.mask.bool() & ~torch.isin(tokens.ids, special)
        return words if tokens.positive is None else words & tokens.positive

    @torch.no_grad()
    @override
    def ground(self, batch: GroundingBatch, entries: Entries) -> list[ScoredBoxes]:
        """The best queries' boxes; a box's score is that of the word that fits it best.

        Of the words that name the object, if the batch says which.
        """
        from transformers.image_transforms import center_to_corners_format

        with self._entered(entries.each_alone(), batch):
            output = self._output(**self._inputs(batch, entries))
        scores = output.logits.float().sigmoid()  # [B, Q, T]; padding is -inf
        if batch.tokens.positive is not None:
            positive = self._words(batch.tokens)
            scores = scores[..., : positive.shape[1]] * positive[:, None]
        scores = scores.amax(dim=-1)  # [B, Q]
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        boxes = center_to_corners_format(output.pred_boxes.float()).clamp(0, 1)
        found = []
        for box, score, best in zip(boxes, scores, order, strict=True):
            if self.selection.threshold:
                score = score[score > self.selection.threshold]
            found.append(ScoredBoxes(box[best[: len(score)]][:BOXES], score[:BOXES]))
        return found

    @override
    def losses(self, batch: GroundingBatch, entries: Entries) -> dict[str, Tensor]:
        """Focal, L1 and GIoU loss (B,) after Hungarian matching, summed over the layers."""
        from transformers.image_transforms import corners_to_center_format

        labels = [
            {
                "class_labels": torch.zeros(len(boxes), dtype=torch.long),
                "boxes": corners_to_center_format(boxes),
            }
            for boxes in batch.targets
        ]
        device = batch.images.device
        labels = [{name: value.to(device) for name, value in label.items()} for label in labels]
        positive = None if batch.tokens.positive is None else self._words(batch.tokens)
        self.model.loss_function = partial(sample_losses, positive=positive)
        with self._entered(entries, batch):
            output = self._output(**self._inputs(batch, entries), labels=labels)
        return loss_terms(output.loss_dict, self.model.config)

    @property
    @override
    def head_layers(self) -> dict[str, Tensor]:
        """The decoder's last layers to boxes, and the projection of words that scores rest on."""
        return {
            name: value
            for name, value in self.model.named_parameters()
            if "text_projection" in name or (".bbox_embed." in f".{name}" and ".layers.2." in name)
        }

    @torch.no_grad()
    @override
    def image_features(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        tower = self.model.model.backbone.conv_encoder.model
        found = tower(images, return_dict=True).feature_maps
        return level_means(found, covered(images, sizes))

    @torch.no_grad()
    @override
    def coarsest_level(self, images: Tensor) -> Tensor:
        inner = self.model.model
        levels = inner.backbone.conv_encoder.model(images, return_dict=True).feature_maps
        level: Tensor = levels[-1]
        # Those behind the tower's own follow one from another.
        for projection in (
            list(inner.input_proj_vision)[len(levels) :] or inner.input_proj_vision[-1:]
        ):
            level = projection(level)
        return level

    @torch.no_grad()
    @override
    def text_features(self, tokens: Tokens) -> Tensor:
        """BERT's tokens, projected and averaged over the expression's."""
        inner = self.model.model
        masks, positions = self._phrase(tokens)
        hidden = inner.text_backbone(tokens.ids, masks, None, positions).last_hidden_state
        weights = tokens.mask[..., None].to(hidden.dtype)
        features: Tensor = (inner.text_projection(hidden) * weights).sum(1) / weights.sum(1)
        return features

    @torch.no_grad()
    @override
    def embed_text(self, tokens: Tokens) -> Tensor:
        """Word embeddings with their positions, behind BERT's first norm."""
        _, positions = self._phrase(tokens)
        embedded: Tensor = self.model.model.text_backbone.embeddings(
            input_ids=tokens.ids, position_ids=positions
        )
        return embedded

    @override
    def tokenize(self, texts: Sequence[str], spans: Sequence[Sequence[Span]] = ()) -> Tokens:
        """Begin, words, a stop, end, padding. Raises DataError for a text without a word."""
        special = set(self.model.model.special_tokens.tolist())
        return phrase_tokens(self.tokenizer, special, self.shape.context_length, texts, spans)

    @override
    def token_counts(self, texts: Sequence[str]) -> list[int]:
        special = set(self.model.model.special_tokens.tolist())
        return phrase_lengths(self.tokenizer, special, texts)

    @override
    def image_transform(self) -> DinoPixels:
        return self._pixels

    @functools.cached_property
    @override
    def fingerprint(self) -> str:
        config = self.model.config
        sizes = {
            "vision": named(config.backbone_config.to_dict(), SWIN_SETTINGS),
            "text": named(config.text_config.to_dict(), TOWER_SETTINGS),
            "head": named(config.to_dict(), HEAD_SETTINGS),
            "side": self._pixels.side,
        }
        if self._pixels.rule != "squeeze":
            sizes["longest"] = self._pixels.longest
        if self.routing_feature != "level_means":
            sizes["routing_feature"] = self.routing_feature
        return digest(self.model, sizes, self.tokenizer, self.image_processor)

    @contextmanager
    def _entered(self, entries: Entries, batch: GroundingBatch) -> Iterator[None]:
        self._entries, self._length = entries, batch.tokens.ids.shape[1]
        try:
            with (
                self._swin_prompts.active(entries.vision, entries.windows),
                self._bert_prompts.active(entries.text, entries.context),
                self._lockstep.active(entries.added, batch.images),
                self.computation.autocast(batch.images.device),
            ):
                yield
        finally:
            self._entries = Entries()

    def _output(self, **inputs: Any) -> Any:
        if not self._entries.head:
            return self.model(**inputs)
        return functional_call(self.model, dict(self._entries.head), (), inputs)

    def _adapt_levels(self, _: Any, __: Any, output: Any) -> Any:
        adapt = self._entries.adapt_level
        if adapt is None:
            return None
        output.feature_maps = tuple(adapt(i, level) for i, level in enumerate(output.feature_maps))
        return output

    def _adapt_text(self, _: Any, __: Any, output: Any) -> Any:
        if self._entries.adapt_text is None:
            return None
        hidden, length = output.last_hidden_state, self._length
        own = self._entries.adapt_text(hidden[:, :length])
        output.last_hidden_state = torch.cat([own, hidden[:, length:]], dim=1)
        return output

    def _adapt_pyramid(self, _: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Change what the encoder gets: all levels' places (B, sum of H W, C), one by one."""
        adapt = self._entries.adapt_pyramid
        if adapt is None:
            return None
        sides = kwargs["spatial_shapes_list"]
        levels = kwargs["vision_features"].split([h * w for h, w in sides], dim=1)
        adapted = [
            adapt(index, level.transpose(1, 2).unflatten(2, (height, width)))
            for index, (level, (height, width)) in enumerate(zip(levels, sides, strict=True))
        ]
        places = [level.flatten(2).transpose(1, 2) for level in adapted]
        return args, kwargs | {"vision_features": torch.cat(places, dim=1)}

    def _inputs(self, batch: GroundingBatch, entries: Entries) -> dict[str, Tensor | None]:
        tokens = batch.tokens
        if entries.added is not None:
            tokens = tokens.padded(entries.added.text_length, self.tokenizer.pad_token_id)
        return {
            "pixel_values": batch.images,
            "pixel_mask": pixel_mask(batch.images, batch.sizes),
            "input_ids": tokens.ids,
            "attention_mask": tokens.mask,
        }

    def _phrase(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Attention masks [B, 1, T, T] and positions [B, T] as the model makes them of ids."""
        library = import_module(type(self.model).__module__)
        masks, positions = library.generate_masks_with_special_tokens_and_transfer_map(
            tokens.ids, self.model.model.special_tokens
        )
        return masks[:, None], positions

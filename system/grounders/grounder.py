"""The interface of frozen grounders, which find the boxes of an expression in an image.

Legend: B batch, D width of a layer, T tokens, K boxes, P feature width.
Boxes are left, top, right, bottom as shares of the image's width and height, so that they do not
depend on how an image was resized; IoU and GIoU are the same in shares and in pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from system.backbones.computation import Computation
from system.backbones.dual_encoder import ImageTransform, Modality, encode_names
from system.config.schema import (
    GrounderConfig,
    RoutingFeature,
    SelectionConfig,
    Upsampling,
)
from system.errors import ConfigError
from system.grounders.entries import Entries, ImagePlace
from system.grounders.tokens import Span, Tokens
from system.registry import Registry


@dataclass(frozen=True)
class GrounderShape:
    """The sizes a prompt has to fit; read from the checkpoint, never from our config."""

    vision_widths: tuple[int, ...]  # of each vision block, in order; Swin's grow with its stages
    text_widths: tuple[int, ...]  # of each text layer
    pyramid_widths: tuple[int, ...]  # of each level that the vision tower hands on
    image_size: int  # side of the square, or the shortest side
    context_length: int
    feature_width: int  # of `text_features`
    level_sides: tuple[int, ...] = ()  # of each level behind the pyramid, if images are squares
    vision_sides: tuple[int, ...] = ()  # of each vision block's feature map, if it is one

    @property
    def image_feature_width(self) -> int:
        """Of `image_features`, which hold every level."""
        return sum(self.pyramid_widths)

    def widths(self, modality: Modality) -> tuple[int, ...]:
        """Width of each layer of one tower."""
        return self.vision_widths if modality == "vision" else self.text_widths


@dataclass(frozen=True)
class ScoredBoxes:
    """The boxes found for one sample, best first."""

    boxes: Tensor  # (K, 4)
    scores: Tensor  # (K,)


@dataclass(frozen=True)
class KeptOutputs:
    """What the frozen grounder makes of a batch's samples by itself, computed before.

    It takes the place of the same computation, where a method's entries leave it as it is; see
    `Entries.reach`. Where `image` is there, the batch's own images have no pixels.
    """

    place: ImagePlace | None = None
    image: Sequence[Tensor] = ()  # (B, P, H, W) each, at `place`
    features: Tensor | None = None  # (B, P) of `Grounder.image_features`
    words: Tensor | None = None  # (B, T, D) that the text tower hands on, padding as 0


@dataclass(frozen=True)
class GroundingBatch:
    """Images with one expression each and the boxes that it refers to."""

    images: Tensor  # (B, 3, H, W)
    tokens: Tokens
    targets: Sequence[Tensor] = field(default_factory=tuple)  # B of (n, 4), empty when not training
    #: (B, 2), each image's own height and width where others are padded to; None: all are H, W.
    sizes: Tensor | None = None
    kept: KeptOutputs = KeptOutputs()

    @property
    def covered(self) -> Tensor | None:
        """Shares (B, 2) of the tensor's height and width that images cover; None: all of both."""
        return covered(self.images, self.sizes)


class Grounder(nn.Module, ABC):
    """A frozen model that finds what an expression refers to, with entries for prompts.

    Without entries the outputs are the plain model's to the bit.
    """

    objective: ClassVar[str] = "grounding"
    #: The modalities whose unprompted features determine a sample's task.
    routed: ClassVar[tuple[Modality, ...]] = ("vision",)

    shape: GrounderShape
    name: str
    computation: Computation
    tower_layers: tuple[nn.Module, ...]
    #: To multiples of how many pixels a batch of images is padded.
    side_multiple: ClassVar[int] = 1
    #: Which boxes are handed on; no part of the fingerprint, since no prompt depends on it.
    selection: SelectionConfig = SelectionConfig()
    #: Whether the words that an expression's spans cover name its object, or all words do.
    spans_count: bool = True
    #: Which of an image's unprompted features route it; part of the fingerprint.
    routing_feature: RoutingFeature = "level_means"

    def select(self, selection: SelectionConfig) -> None:
        """Set which boxes are handed on. Raises ConfigError for what the model has no use for."""
        self.selection = selection

    def upsample(self, upsampling: Upsampling) -> None:
        """Set how the head upsamples. Raises ConfigError for a model without a dynamic head."""
        raise ConfigError(
            f"grounder.upsampling={upsampling} is for a GLIP, whose dynamic head brings levels to "
            "a finer one's size; set it to null, or take grounder=glip_t_a"
        )

    def route_by(self, feature: RoutingFeature) -> None:
        """Set what routes an image. Raises ConfigError where images are of many sizes."""
        if feature == "coarsest" and not self.shape.level_sides:
            raise ConfigError(
                "grounder.routing_feature=coarsest: a whole level routes an image, so that all "
                "have to be of one size; set grounder.images.rule=squeeze"
            )
        self.routing_feature = feature

    @abstractmethod
    def ground(self, batch: GroundingBatch, entries: Entries) -> list[ScoredBoxes]:
        """The scored boxes of each sample, best first; no gradient is kept."""

    @abstractmethod
    def losses(self, batch: GroundingBatch, entries: Entries) -> dict[str, Tensor]:
        """The model's own weighted loss terms by name, one value per sample: (B,).

        Each sample is normalised by its own positives, so that the mean over a global batch does
        not depend on how it is cut.
        """

    def learned_boxes(self, boxes: Tensor, width: int, height: int) -> Tensor:
        """Boxes (n, 4) as the model learned to find them, of annotated ones, in shares.

        The annotations are of an image of `width` x `height` pixels, before it is resized.
        """
        return boxes

    @property
    @abstractmethod
    def head_layers(self) -> dict[str, Tensor]:
        """Parameters of the last layers, which read boxes and scores, by their names."""

    @abstractmethod
    def image_features(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Unprompted features (B, P) of images (B, 3, H, W): `level_means` of the vision tower.

        `sizes` as `GroundingBatch` has them.
        """

    def batch_features(self, batch: GroundingBatch) -> Tensor:
        """`image_features` (B, P) of a batch's images, computed unless they are kept."""
        if batch.kept.features is not None:
            return batch.kept.features
        return self.image_features(batch.images, batch.sizes)

    @abstractmethod
    def coarsest_level(self, images: Tensor) -> Tensor:
        """The unprompted pyramid's coarsest level (B, C, h, w) of images (B, 3, H, W)."""

    def routing_features(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Unprompted features (B, R) of images (B, 3, H, W), whose direction names their task.

        By `routing_feature`: `image_features`, or the coarsest level, flattened by channel, row and
        column, which LPI's released grounding code routes by.
        """
        if self.routing_feature == "level_means":
            return self.image_features(images, sizes)
        return self.coarsest_level(images).float().flatten(1)

    @property
    def routing_width(self) -> int:
        """R of `routing_features`."""
        if self.routing_feature == "level_means":
            return self.shape.image_feature_width
        return int(self.shape.feature_width * self.shape.level_sides[-1] ** 2)

    @abstractmethod
    def text_features(self, tokens: Tokens) -> Tensor:
        """Unprompted features (B, P) of expressions."""

    @abstractmethod
    def embed_text(self, tokens: Tokens) -> Tensor:
        """The tokens (B, T, D) that enter the first text layer."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str], spans: Sequence[Sequence[Span]] = ()) -> Tokens:
        """Expressions padded to the longest, cut to the context.

        `spans` are the characters of each text that name the object; none: all words do.
        """

    @abstractmethod
    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, before it is cut to the context."""

    @abstractmethod
    def image_transform(self) -> ImageTransform:
        """The checkpoint's own preprocessing, at the size that the config asks for."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 over weights, sizes, tokenizer and preprocessing.

        It covers all that outputs depend on: an adapter fits only its own grounder.
        """

    def name_features(self, names: Sequence[str]) -> Tensor:
        """Unit text features (K, P) of names, such as those of tasks, unprompted, on the CPU."""
        device = next(self.parameters()).device

        def encode(texts: list[str]) -> Tensor:
            return self.text_features(self.tokenize(texts).to(device))

        return encode_names(encode, names, self.shape.feature_width)


class KeepingGrounder(Grounder):
    """A grounder that takes `KeptOutputs` of a batch, and gives them."""

    @abstractmethod
    def image_outputs(
        self, images: Tensor, sizes: Tensor | None, place: ImagePlace
    ) -> tuple[list[Tensor], Tensor]:
        """`KeptOutputs.image` and `features` of images (B, 3, H, W), by one forward pass."""

    @abstractmethod
    def text_outputs(self, tokens: Tokens) -> Tensor:
        """`KeptOutputs.words` (B, T, D) of expressions."""


class GrounderLoader(Protocol):
    """Builds a frozen grounder from its config section."""

    def __call__(self, config: GrounderConfig) -> Grounder:
        """The grounder at `config.path`; ConfigError if there is none, or it is another's."""
        ...


GROUNDERS: Registry[GrounderLoader] = Registry("grounder", "system.grounders", "GROUNDER")


def load_grounder(config: GrounderConfig) -> Grounder:
    """The frozen grounder of a config section. Raises ConfigError naming what cannot be loaded."""
    grounder = GROUNDERS.get(config.name)(config)
    grounder.select(config.selection)
    grounder.spans_count = config.positive_words == "spans"
    grounder.route_by(config.routing_feature)
    if config.upsampling is not None:
        grounder.upsample(config.upsampling)
    return grounder


def block_sides(image_size: int | None, patch_size: int, depths: Sequence[int]) -> tuple[int, ...]:
    """Side of the feature map of each block of a Swin, whose stages halve it.

    None where images are of many sizes.
    """
    if image_size is None:
        return ()
    sides: list[int] = []
    side = -(-image_size // patch_size)
    for depth in depths:
        sides += [side] * depth
        side = (side + 1) // 2
    return tuple(sides)


def covered(images: Tensor, sizes: Tensor | None) -> Tensor | None:
    """Shares (B, 2) of the height and width of images (B, 3, H, W) that `sizes` (B, 2) are."""
    if sizes is None:
        return None
    return sizes.to(images) / torch.tensor(images.shape[-2:]).to(images)


def level_means(levels: Sequence[Tensor], covered: Tensor | None = None) -> Tensor:
    """Each level's mean (B, P) over its places, to unit length, side by side: (B, sum of P).

    As the vision tower hands them on: behind the pyramid only what helps to find objects is left,
    and a scene's own look, which tells tasks apart, is mostly gone. Where images are padded, the
    mean is over the places that hold some of the image: the shares `covered` (B, 2) of the sides.
    """
    means = [_mean(level.float(), covered) for level in levels]
    return torch.cat([normalize(mean, dim=-1) for mean in means], dim=-1)


def _mean(level: Tensor, covered: Tensor | None) -> Tensor:
    if covered is None:
        return level.mean(dim=(2, 3))
    rows, columns = (
        # A little less, so that a share that was rounded up adds no place.
        torch.arange(side, device=level.device) < (covered[:, axis, None] * side - 1e-3)
        for axis, side in enumerate(level.shape[-2:])
    )
    weights = (rows[:, None, :, None] & columns[:, None, None, :]).to(level)
    return (level * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))

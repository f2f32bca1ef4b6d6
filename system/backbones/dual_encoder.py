"""The interface of frozen dual encoders, and the registry of those that there are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from system.backbones.computation import Computation
from system.config.schema import Augmentation, BackboneConfig, InputConfig
from system.registry import Registry

Modality = Literal["vision", "text"]
MODALITIES: tuple[Modality, Modality] = ("vision", "text")
#: How prompts enter. The first layer's become tokens, and those of layers > 0 are added to these
#: ("add") or put in their place ("replace"); or each layer's stand before the keys and values of
#: its attention, half of them each ("prefix"); or the first layer's alone take the place of the
#: tower's first tokens, a class or begin token among them ("overwrite").
Deep = Literal["add", "replace", "prefix", "overwrite"]
#: (1|B, L, N, D); with "prefix" also one (1|B, N, D) per layer, whose lengths N then may differ.
Prompt = Tensor | Sequence[Tensor]
#: The folder of the models that come inside the package.
SHIPPED = Path(__file__).resolve().parent


@dataclass(frozen=True)
class BackboneShape:
    """The sizes a prompt has to fit; read from the checkpoint, never from our config."""

    vision_layers: int
    text_layers: int
    vision_width: int
    text_width: int
    feature_width: int
    image_size: int
    context_length: int

    def width(self, modality: Modality) -> int:
        """Width of the tokens of one tower."""
        return self.vision_width if modality == "vision" else self.text_width

    def layers(self, modality: Modality) -> int:
        """Transformer layers of one tower."""
        return self.vision_layers if modality == "vision" else self.text_layers

    @property
    def image_bytes(self) -> tuple[int, int, int]:
        """Shape of an image's bytes, before they are normalised."""
        return 3, self.image_size, self.image_size


class ImageTransform(Protocol):
    """Turns a decoded image into the backbone's input.

    The generator drives augmentation; None asks for the transform of evaluation.
    """

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> Tensor:
        """Pixels (3, H, W): float32, or bytes that a `PixelTransform` normalises."""
        ...


class PixelTransform(ImageTransform, Protocol):
    """Turns a decoded image into what becomes a dual encoder's input by `normalise`."""

    @property
    def cache_key(self) -> str | None:
        """What its bytes depend on beside the image; None: they are not for a pixel cache."""
        ...

    def normalise(self, images: Tensor) -> Tensor:
        """The input (B, 3, H, W), float32, of a batch of what a call returns, on its device."""
        ...


class DualEncoder(nn.Module, ABC):
    """A frozen model that embeds images and texts in one space, with entries for prompts.

    `deep` says how a prompt enters, see `Deep`: added (LPI as released), in the place of the prompt
    before (VPT deep, MaPLe), as keys and values of the attention (DualPrompt, CODA-Prompt).

    Legend: B batch, L layers entered, N prompt length, D tower width, T tokens, P feature width.
    """

    objective: ClassVar[str] = "retrieval"
    #: The modalities whose unprompted features determine a sample's task.
    routed: ClassVar[tuple[Modality, ...]] = MODALITIES

    shape: BackboneShape
    name: str
    computation: Computation
    tower_layers: tuple[nn.Module, ...]

    @abstractmethod
    def encode_image(
        self, pixel_values: Tensor, prompt: Prompt | None, deep: Deep = "add"
    ) -> Tensor:
        """Projected image features (B, P), not normalised, of images (B, 3, H, W).

        The prompt is (1|B, L, N, D).
        """

    @abstractmethod
    def encode_text(self, input_ids: Tensor, prompt: Prompt | None, deep: Deep = "add") -> Tensor:
        """Projected text features (B, P), not normalised, of ids (B, T).

        The prompt is (1|B, L, N, D); the ids hold N placeholders for one that is added or replaces,
        see `tokenize`.
        """

    def tokenize(self, texts: Sequence[str], placeholders: int = 0) -> Tensor:
        """Ids (B, T) of texts, with room for a prompt; see `token_rows` and `padded`."""
        return self.padded(self.token_rows(texts, placeholders))

    @abstractmethod
    def token_rows(self, texts: Sequence[str], placeholders: int = 0) -> list[list[int]]:
        """Each text's ids with room for a prompt, as many as fit the context; the end stays."""

    @abstractmethod
    def padded_length(self, length: int) -> int:
        """The length T of a batch whose longest text has `length` ids: see `Computation`."""

    @property
    @abstractmethod
    def trims_texts(self) -> bool:
        """Whether `padded_length` depends on the texts."""

    @abstractmethod
    def padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Ids (B, T) of texts of which each has its own length."""

    @abstractmethod
    def without_placeholders(self, input_ids: Tensor, placeholders: int) -> Tensor:
        """The same texts (B, T) without the room for a prompt that `tokenize` left."""

    @abstractmethod
    def text_lengths(self, input_ids: Tensor) -> Tensor:
        """Number of tokens (B,) of each text of ids (B, T): all but the padding."""

    @abstractmethod
    def embed(self, modality: Modality, inputs: Tensor) -> Tensor:
        """The tokens (B, T, D) with their positions, as they enter the first layer; unprompted."""

    @abstractmethod
    def embed_words(self, text: str) -> Tensor:
        """The embeddings (T, D) of a text's words alone: no begin, end or padding, no positions."""

    @abstractmethod
    def image_transform(
        self, inputs: InputConfig = ..., augmentation: Augmentation = ...
    ) -> PixelTransform:
        """The checkpoint's own preprocessing, or what `inputs` say; augmented in training alone."""

    @abstractmethod
    def with_own_modules(self) -> "DualEncoder":
        """A twin for methods that put modules into the model: weights are shared, modules not."""

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """The factor on cosine similarities: exp of the learned temperature; a scalar."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 over weights, sizes, tokenizer and preprocessing.

        It covers all that features depend on: an adapter fits only its own backbone.
        """

    def forward(
        self, modality: Modality, inputs: Tensor, prompt: Prompt | None, deep: Deep = "add"
    ) -> Tensor:
        """Features of either modality in the set precision; see `encode_image`, `encode_text`."""
        with self.computation.autocast(inputs.device):
            if modality == "vision":
                return self.encode_image(inputs, prompt, deep)
            return self.encode_text(inputs, prompt, deep)

    def name_features(self, names: Sequence[str]) -> Tensor:
        """Unit text features (K, P) of names, such as those of tasks, unprompted, on the CPU."""
        device = next(self.parameters()).device

        def encode(texts: list[str]) -> Tensor:
            features: Tensor = self("text", self.tokenize(texts).to(device), None)
            return features

        return encode_names(encode, names, self.shape.feature_width)


class BackboneLoader(Protocol):
    """Builds a frozen backbone from its config section."""

    def __call__(self, path: str, computation: Computation = ...) -> DualEncoder:
        """The backbone at a hub id or local directory; ConfigError if there is none."""
        ...


BACKBONES: Registry[BackboneLoader] = Registry("backbone", "system.backbones", "BACKBONE")


def load_backbone(config: BackboneConfig) -> DualEncoder:
    """The frozen backbone of a config section. Raises ConfigError naming what cannot be loaded."""
    return BACKBONES.get(config.name)(resolved(config.path), Computation.of(config))


def resolved(path: str) -> str:
    """The path of a model; `shipped:NAME` is a directory inside this package."""
    kind, _, name = path.partition(":")
    return str(SHIPPED / name) if kind == "shipped" else path


def unit(features: Tensor) -> Tensor:
    """Features scaled to unit length along the last dimension, in float32."""
    return torch.nn.functional.normalize(features.float(), dim=-1)


@torch.inference_mode()
def encode_names(encode: Callable[[list[str]], Tensor], names: Sequence[str], width: int) -> Tensor:
    """Unit features (K, `width`) of names on the CPU; underscores are read as spaces.

    Each name is a batch of its own: its feature does not depend on which others there are.
    """
    features = [torch.zeros(0, width)]
    features += [unit(encode([name.replace("_", " ")])).cpu() for name in names]
    return torch.cat(features)

"""What a method and a stage may ask of a frozen dual encoder, whatever model is behind it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from system.registry import Registry

Modality = Literal["vision", "text"]
MODALITIES: tuple[Modality, Modality] = ("vision", "text")


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


class ImageTransform(Protocol):
    """Turns a decoded image into the backbone's input.

    The generator drives augmentation; None asks for the transform of evaluation.
    """

    def __call__(self, image: Image.Image, rng: np.random.Generator | None) -> Tensor:
        """Pixels (3, H, W), float32."""
        ...


class DualEncoder(nn.Module, ABC):
    """A frozen model that embeds images and texts in one space, with entries for prompts.

    Legend: B batch, L layers entered, N prompt length, D tower width, T tokens, P feature width.
    """

    shape: BackboneShape
    name: str

    @abstractmethod
    def encode_image(self, pixel_values: Tensor, prompt: Tensor | None) -> Tensor:
        """Image features (B, P), not normalised, from (B, 3, H, W) and a prompt (1|B, L, N, D)."""

    @abstractmethod
    def encode_text(self, input_ids: Tensor, prompt: Tensor | None) -> Tensor:
        """Text features (B, P), not normalised, from (B, T) and a prompt (1|B, L, N, D).

        `input_ids` hold N placeholders where the prompt goes: see `tokenize`.
        """

    @abstractmethod
    def tokenize(self, texts: Sequence[str], placeholders: int = 0) -> Tensor:
        """Token ids (B, T) padded to the context, with room for a prompt; the end token stays."""

    @abstractmethod
    def image_transform(self, protocol: str, augmentation: str) -> ImageTransform:
        """The checkpoint's own preprocessing; `protocol` and `augmentation` as in the config."""

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """The factor on cosine similarities, already exponentiated."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of the weights and sizes: an adapter fits only the backbone it was made with."""

    def forward(self, modality: Modality, inputs: Tensor, prompt: Tensor | None) -> Tensor:
        """Features of either modality; see `encode_image` and `encode_text`."""
        if modality == "vision":
            return self.encode_image(inputs, prompt)
        return self.encode_text(inputs, prompt)


class BackboneLoader(Protocol):
    """Builds a frozen backbone from its config section."""

    def __call__(self, path: str) -> DualEncoder:
        """The backbone at a hub id or local directory; ConfigError if there is none."""
        ...


BACKBONES: Registry[BackboneLoader] = Registry("backbone", "system.backbones")


def unit(features: Tensor) -> Tensor:
    """Features scaled to unit length along the last dimension, in float32."""
    return torch.nn.functional.normalize(features.float(), dim=-1)

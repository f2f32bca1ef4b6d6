"""The one interface of everything that learns on a frozen grounder.

Legend: B batch, L prompted layers, C latent channels, h w latent height and width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from system.config.parse import parse_dataclass
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.grounders.grounder import Entries, Grounder, GrounderShape, Tokens
from system.methods.stream_method import SimilaritySource
from system.registry import Registry

#: How a method learns a stream of tasks: parameters of each task's own, found again by the router;
#: one set that each task trains on; or none.
InStream = Literal["own", "shared", "nothing"]
_BETWEEN_TASKS = 1_000_003  # a prime keeps the tasks of neighbouring seeds apart


@dataclass(frozen=True)
class GroundingSetting:
    """What a method is built from, beside its own section of the config."""

    shape: GrounderShape
    seed: int
    masks: MaskDecoder | None = None  # for methods whose prompts come from latents
    task: int = 0  # of a stream, for a method with parameters of each task's own

    def generator(self) -> torch.Generator:
        """The generator of initial values."""
        return torch.Generator().manual_seed(self.seed + self.task * _BETWEEN_TASKS)


@dataclass(frozen=True)
class LatentNeeds:
    """Which latents of the denoising path a method takes of each sample."""

    generator: Mapping[str, Any]  # settings of the stage whose model makes them
    layers: int  # L: one latent a prompted layer
    steps: int  # of denoising
    stride: int  # from one layer's latent back to the next one's
    guidance: float
    fresh_noise: bool  # new ones each epoch


class GroundingMethod(nn.Module, ABC):
    """Owns all trainable parameters and never changes the grounder."""

    #: Whether `entries` needs what the prompt generator made of each sample.
    needs_latents: ClassVar[bool] = False
    #: Which latents of each sample; None for methods without.
    latent_needs: LatentNeeds | None = None
    #: What becomes of it in a stream; see `system.methods.grounding_stream`.
    in_stream: ClassVar[InStream] = "shared"
    #: Where the `similarity` that `regularisers` gets in a stream comes from.
    similarity_source: SimilaritySource = "captions"

    @abstractmethod
    def entries(self, grounder: Grounder, tokens: Tokens, latents: Tensor | None) -> Entries:
        """What enters the grounder for a batch of expressions.

        `latents` (B, L, C, h, w), one a prompted layer, come for methods that need them; they are
        None for all others.
        """

    def regularisers(
        self, earlier: Sequence["GroundingMethod"] = (), similarity: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted loss terms of the parameters alone.

        In a stream `earlier` are what the tasks before have learned, which stays as it is, and
        `similarity` (K, K) is that of the tasks so far.
        """
        return {}


class GroundingMethodFactory:
    """How a registered method is built: its config dataclass and its class."""

    def __init__(self, config: type[Any], method: type[GroundingMethod]) -> None:
        self.config = config
        self.method = method

    def build(self, section: Mapping[str, Any], setting: GroundingSetting) -> GroundingMethod:
        """The method of a config section; unknown keys and wrong values raise ConfigError."""
        values = {key: value for key, value in section.items() if key != "name"}
        config = parse_dataclass(self.config, values, "method")
        return self.method(config, setting)


def _on_a_stream(name: str) -> str | None:
    from system.methods.method import METHODS

    if name not in METHODS:
        return None
    return (
        f"method={name} learns a stream of retrieval tasks: use experiment=demo; a grounder "
        f"takes one of {', '.join(GROUNDING_METHODS)}"
    )


GROUNDING_METHODS: Registry[GroundingMethodFactory] = Registry(
    "grounding method", "system.methods", "GROUNDING_METHOD", elsewhere=_on_a_stream
)

"""What the alignment stage asks of a prompt generator: latents of the prompt layers, by sample.

Legend: B batch, L prompted layers, C latent channels, h w latent height and width.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from system.data.shards.manifest import SplitHandle
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.engine.model_stage import ModelExperiment, Show
from system.engine.worker_group import WorkerGroup
from system.methods.base import LatentNeeds


class SplitLatents(Protocol):
    """The latents of one split's expressions."""

    def take(self, samples: Sequence[int], epoch: int) -> Tensor:
        """Latents (B, L, C, h, w) of samples, each by its place in `read_expressions`.

        The epoch matters with fresh noise alone; otherwise each epoch gets the same.
        """
        ...


class PromptLatents(Protocol):
    """Makes latents, or finds those that were made before.

    Every rank has to call `of` for the same samples in the same order: the work is shared.
    """

    @property
    def steps_run(self) -> int:
        """Denoising steps that this process has run, each for one sample."""
        ...

    def of(self, handle: SplitHandle, samples: Sequence[int] | None = None) -> SplitLatents:
        """The latents of a split's expressions, computed now if nobody has before.

        `samples` are those that will be taken, by their places; None: all.
        """
        ...


@runtime_checkable
class LatentStage(Protocol):
    """A model stage whose models make latents: what a method's `generator.name` must name."""

    def masks(self, experiment: ModelExperiment) -> MaskDecoder:
        """The decoder of what the experiment's model makes; neither need be trained yet."""
        ...

    def check_needs(self, experiment: ModelExperiment, needs: LatentNeeds) -> None:
        """Raises ConfigError if the experiment's model will not be able to make such latents."""
        ...

    def latents(
        self, experiment: ModelExperiment, needs: LatentNeeds, group: WorkerGroup, show: Show
    ) -> PromptLatents:
        """The latents that a method needs, from the experiment's trained model."""
        ...

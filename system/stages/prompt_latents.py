"""What the alignment stage asks of a prompt generator: latents of the prompt layers, by sample.

Legend: B batch, L prompted layers, C latent channels, h w latent height and width.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from system.data.manifest import SplitGrant


class SplitLatents(Protocol):
    """The latents of one split's expressions."""

    def take(self, samples: Sequence[int], epoch: int) -> Tensor:
        """Latents (B, L, C, h, w) of samples, each by its place in `read_expressions`.

        The epoch matters with fresh noise alone; otherwise each epoch gets the same.
        """
        ...


class PromptLatents(Protocol):
    """Makes latents, or finds those that were made before.

    Every rank has to call `of` for the same splits in the same order: the work is shared.
    """

    @property
    def steps_run(self) -> int:
        """Denoising steps that this process has run, each for one sample."""
        ...

    def of(self, grant: SplitGrant) -> SplitLatents:
        """The latents of a split's expressions, computed now if nobody has before."""
        ...

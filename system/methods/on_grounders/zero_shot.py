"""The frozen grounder as it is: what every method has to beat. Trainable parameters: none."""

from typing import ClassVar

from torch import Tensor

from system.grounders.grounder import Entries, Grounder, Tokens
from system.methods.grounding_method import (
    GroundingMethod,
    GroundingMethodFactory,
    GroundingSetting,
    InStream,
)
from system.methods.weights.zero_shot import ZeroShotConfig


class GroundingZeroShot(GroundingMethod):
    """Learns nothing; only its figures are computed."""

    in_stream: ClassVar[InStream] = "nothing"

    def __init__(self, config: ZeroShotConfig, setting: GroundingSetting) -> None:
        super().__init__()

    def entries(self, grounder: Grounder, tokens: Tokens, latents: Tensor | None) -> Entries:
        """Nothing."""
        return Entries()


GROUNDING_METHOD = GroundingMethodFactory(ZeroShotConfig, GroundingZeroShot)

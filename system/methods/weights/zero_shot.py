"""The frozen backbone as it is: what every method has to beat.

Radford et al. 2021, "Learning transferable visual models from natural language supervision"
(arXiv 2103.00020). Trainable parameters: none.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from system.backbones.dual_encoder import DualEncoder, Modality
from system.methods.method import MethodFactory, MethodSetting
from system.methods.shared_method import SharedMethod


@dataclass(frozen=True)
class ZeroShotConfig:
    """There is nothing to set: nothing trains."""


class ZeroShot(SharedMethod):
    """Learns nothing at any task; only its figures are computed."""

    trains_on = "nothing"

    def __init__(self, config: ZeroShotConfig, setting: MethodSetting) -> None:
        super().__init__()

    def make_parameters(self, backbone: DualEncoder) -> None:
        """There are none."""

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """None."""
        return {}

    def encode_shared(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        """The backbone's own features."""
        features: Tensor = backbone(modality, inputs, None)
        return features


METHOD = MethodFactory(ZeroShotConfig, ZeroShot)

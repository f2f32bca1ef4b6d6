"""All backbone weights fine-tuned from task to task: what forgetting looks like unhindered.

One copy of the pre-trained weights goes through the stream; each task trains it on from where the
task before left it. Trainable parameters, shared by all tasks: every weight of both towers and both
projections, 149,620,736 at CLIP ViT-B/16's sizes (the temperature is not trained).

Saved: the newest task's adapter file holds the whole copy, 4 bytes a weight (598 MB); those of
earlier tasks keep only the mean feature of their captions. Earlier states of the stream can
therefore not be evaluated again; their figures are in the accuracy matrix.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from system.backbones.dual_encoder import DualEncoder, Modality
from system.methods.backbone_copy import BackboneCopy
from system.methods.method import MethodFactory, MethodSetting
from system.methods.shared_method import SharedMethod


@dataclass(frozen=True)
class FineTuneConfig:
    """There is nothing to set: all weights train."""


class FineTune(SharedMethod):
    """One copy of the backbone's weights for the whole stream."""

    def __init__(self, config: FineTuneConfig, setting: MethodSetting) -> None:
        super().__init__()
        self.copies = nn.ModuleList()  # empty until a backbone is there to be copied

    def make_parameters(self, backbone: DualEncoder) -> None:
        """Copy the pre-trained weights."""
        self.copies.append(BackboneCopy(backbone))

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """The copy's weights under the backbone's names."""
        return self._copy().named_weights()

    def encode_shared(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        """Features that the copy gives."""
        return self._copy().encode(backbone, modality, inputs)

    def _copy(self) -> BackboneCopy:
        (copy,) = self.copies
        assert isinstance(copy, BackboneCopy)
        return copy


METHOD = MethodFactory(FineTuneConfig, FineTune)

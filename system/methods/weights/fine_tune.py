"""All backbone weights fine-tuned from task to task: what forgetting looks like unhindered.

One copy of the pre-trained weights goes through the stream; each task trains it on from where the
task before left it. Trainable parameters, shared by all tasks: every weight of both towers and both
projections, 149,620,736 at CLIP ViT-B/16's sizes (the temperature is not trained).

Saved: the newest task's adapter file holds the whole copy, 4 bytes a weight (598 MB); those of
earlier tasks keep only the mean feature of their captions. Earlier states of the stream can
therefore not be evaluated again; their values are in the accuracy matrix.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from system.backbones.dual_encoder import DualEncoder, Modality
from system.methods.base import Method, MethodFactory, RetrievalSetting

#: Parameters that only a pre-training loss reads; features do not depend on them.
OF_THE_LOSS = ("logit_scale", "logit_bias")


@dataclass(frozen=True)
class FineTuneConfig:
    """There is nothing to set: all weights train."""


class FineTune(Method):
    """A copy of all weights that features depend on, run through the backbone's own modules.

    The temperature stays the backbone's own: the loss reads it there.
    """

    trains_weights = True

    def __init__(self, config: FineTuneConfig, setting: RetrievalSetting) -> None:
        super().__init__()
        self.weights = nn.ParameterList()  # empty until a backbone is there to be copied
        self._names: tuple[str, ...] = ()

    @override
    def begin_task(self, task: int, model: nn.Module) -> None:
        super().begin_task(task, model)
        if not self._names:
            named = {n: p for n, p in model.named_parameters() if not n.endswith(OF_THE_LOSS)}
            self._names = tuple(named)
            self.weights.extend(nn.Parameter(p.detach().float().clone()) for p in named.values())

    @override
    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The weights under the backbone's names."""
        return dict(zip(self._names, self.weights, strict=True))

    @override
    def encode(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        weights: dict[str, Tensor] = {**self.task_parameters(0)}
        features: Tensor = functional_call(backbone, weights, (modality, inputs, None))
        return features


METHOD = MethodFactory(FineTuneConfig, retrieval=FineTune)

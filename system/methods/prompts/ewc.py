"""EWC: prompts that all tasks share, held where earlier tasks need them.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017
(arXiv 1612.00796), equation 3, on the prompts of S-Prompts: after each task the diagonal of the
Fisher information F tells how much the task depends on each number, and the loss of later tasks
gets lambda / 2 sum F (theta - theta*)^2.

The form is online: one F, to which each task adds its own after the older ones were multiplied by
`decay` (Schwarz et al. 2018, arXiv 1805.06370), and one theta*, the newest task's parameters. With
a decay of 1 the Fisher information is the sum over tasks. A task's own is the mean over its
batches of the squared gradient of the objective's loss, the contrastive one in retrieval: that of
a batch stands in for that of each sample, whose loss depends on the others of its batch.

With parameters of each task's own there is nothing to hold, and `sharing: own` is refused.

Trainable parameters, shared by all tasks: Nv Dv + Nt Dt; the adapter holds F and theta* beside
them, three times as many numbers.

Legend: N prompt length, D width of a tower's first layer (v: vision, t: text).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from system.backbones.dual_encoder import Modality
from system.methods.base import MethodFactory, MethodSetting, TaskBatch
from system.methods.parts import check_at_least
from system.methods.prompts.s_prompts import SPrompts, SPromptsConfig


@dataclass(frozen=True)
class EwcConfig(SPromptsConfig):
    """The settings of S-Prompts, and EWC's: `strength` is lambda, `decay` of older tasks' F."""

    strength: float = 1e4
    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, self, "strength", "decay")
        if self.decay > 1:
            raise ValueError(f"decay={self.decay} must be at most 1")


class Ewc(SPrompts):
    """Prompts, their Fisher information, and where the last task left them."""

    def __init__(self, config: EwcConfig, setting: MethodSetting[Any]) -> None:
        super().__init__(config, setting)
        self.strength = config.strength
        self.decay = config.decay
        for name, parameter in self.task_parameters(0).items():
            self.register_buffer(f"fisher_{name}", torch.zeros_like(parameter.detach()))
            self.register_buffer(f"anchor_{name}", parameter.detach().clone())

    @torch.no_grad()
    @override
    def end_task(self, features: Mapping[Modality, Tensor], batches: Iterable[TaskBatch]) -> None:
        """Add the task's Fisher information, and keep its parameters."""
        parameters = self.task_parameters(0)
        squares = {name: torch.zeros_like(p) for name, p in parameters.items()}
        count = 0
        for batch in batches:
            for name, gradient in batch.gradients().items():
                squares[name] += gradient.square()
            count += 1
        for name, parameter in parameters.items():
            self.get_buffer(f"fisher_{name}").mul_(self.decay).add_(squares[name] / max(count, 1))
            self.get_buffer(f"anchor_{name}").copy_(parameter)

    @override
    def loss_terms(self, batch: Any, features: Mapping[Modality, Tensor]) -> dict[str, Tensor]:
        """The penalty, from the second task on."""
        if self.index == 0:
            return {}
        parts = [
            (self.get_buffer(f"fisher_{name}") * (p - self.get_buffer(f"anchor_{name}")) ** 2).sum()
            for name, p in self.task_parameters(0).items()
        ]
        return {"ewc": self.strength / 2 * torch.stack(parts).sum()}


METHOD = MethodFactory(
    EwcConfig,
    retrieval=Ewc,
    grounding=Ewc,
    no_sharing={
        "own": "holds parameters where earlier tasks need them, and in a task's own there is no "
        "earlier task: that is method=s_prompts; use shared or frozen"
    },
)

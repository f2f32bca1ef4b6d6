"""All backbone weights fine-tuned for each task on its own: a ceiling, not a competitor.

Every task starts from the pre-trained weights and keeps a whole copy, so nothing is forgotten and
nothing is small. It tells how much a task has to give.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from system.backbones.dual_encoder import DualEncoder, Modality
from system.prompts.method import METHODS, Method, MethodFactory, MethodSetting


@dataclass(frozen=True)
class FineTunePerTaskConfig:
    """There is nothing to set: all weights train."""


class FineTunePerTask(Method):
    """One copy of the backbone's weights a task."""

    def __init__(self, config: FineTunePerTaskConfig, setting: MethodSetting) -> None:
        super().__init__()
        self.tasks = nn.ModuleList()
        self._names: list[str] = []

    @property
    def known_tasks(self) -> int:
        """How many tasks have a copy."""
        return len(self.tasks)

    def add_task(self, backbone: DualEncoder) -> None:
        """Copy the pre-trained weights; the logit scale stays the backbone's own."""
        named = {n: p for n, p in backbone.named_parameters() if not n.endswith("logit_scale")}
        self._names = list(named)
        self.tasks.append(nn.ParameterList([p.detach().clone() for p in named.values()]))

    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The weights of a task's copy under the backbone's names."""
        copies = self.tasks[task]
        assert isinstance(copies, nn.ParameterList)
        return dict(zip(self._names, copies, strict=True))

    def encode(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor, tasks: Tensor
    ) -> Tensor:
        """Features of each sample from its own task's copy."""
        rows, parts = [], []
        for task in torch.unique(tasks).tolist():
            chosen = (tasks == task).nonzero()[:, 0]
            rows.append(chosen)
            weights: dict[str, Tensor] = {**self.task_parameters(task)}
            parts.append(functional_call(backbone, weights, (modality, inputs[chosen], None)))
        return torch.cat(parts)[torch.argsort(torch.cat(rows))]


METHODS.register("fine_tune_per_task")(MethodFactory(FineTunePerTaskConfig, FineTunePerTask))

"""All backbone weights fine-tuned for each task on its own: a ceiling, not a competitor.

Every task starts from the pre-trained weights and keeps a whole copy, so nothing is forgotten and
nothing is small. It tells how much a task has to give.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from system.backbones.dual_encoder import DualEncoder, Modality
from system.methods.backbone_copy import BackboneCopy
from system.methods.method import Method, MethodFactory, MethodSetting


@dataclass(frozen=True)
class FineTunePerTaskConfig:
    """There is nothing to set: all weights train."""


class FineTunePerTask(Method):
    """One copy of the backbone's weights a task."""

    def __init__(self, config: FineTunePerTaskConfig, setting: MethodSetting) -> None:
        super().__init__()
        self.tasks = nn.ModuleList()

    @property
    def known_tasks(self) -> int:
        """How many tasks have a copy."""
        return len(self.tasks)

    def add_task(self, backbone: DualEncoder) -> None:
        """Copy the pre-trained weights; the logit scale stays the backbone's own."""
        self.tasks.append(BackboneCopy(backbone))

    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The weights of a task's copy under the backbone's names."""
        return self._copy(task).named_weights()

    def encode(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor, tasks: Tensor
    ) -> Tensor:
        """Features of each sample from its own task's copy."""
        rows, parts = [], []
        for task in torch.unique(tasks).tolist():
            chosen = (tasks == task).nonzero()[:, 0]
            rows.append(chosen)
            parts.append(self._copy(task).encode(backbone, modality, inputs[chosen]))
        return torch.cat(parts)[torch.argsort(torch.cat(rows))]

    def _copy(self, task: int) -> BackboneCopy:
        copy = self.tasks[task]
        assert isinstance(copy, BackboneCopy)
        return copy


METHOD = MethodFactory(FineTunePerTaskConfig, FineTunePerTask)

"""LwF: prompts that all tasks share, taught by what they were before the task.

Li and Hoiem, "Learning without Forgetting", ECCV 2016 (arXiv 1606.09282), equation 2, on the
prompts of S-Prompts: the prompts as the task before left them are the teacher of the next task, on
that task's own batches, so that no earlier image is read again. The paper distils the scores of the
old classes at a temperature T. A dual encoder has no classes: here the similarities of a batch's
images and texts are distilled, each image's over the texts and each text's over the images. The
cross-entropy to the teacher is counted from the teacher's own entropy (the Kullback-Leibler
divergence: same gradient, zero for equal scores) and multiplied by T^2, so that its gradient does
not shrink with T (Hinton et al. 2015, arXiv 1503.02531).

The batch is a micro-batch: `stage.micro_batches` says how many texts an image is compared with. A
task's epoch takes one forward pass of both towers more from the second task on. A grounder has no
similarity of image and expression, and does not take the method.

Trainable parameters, shared by all tasks: Nv Dv + Nt Dt. Nothing more is saved.

Legend: B micro-batch, N prompt length, D width of a tower's first layer (v: vision, t: text).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from typing_extensions import override

from system.backbones.dual_encoder import DualEncoder, Modality, unit
from system.methods.base import MethodFactory, MethodSetting
from system.methods.parts import check_at_least, check_positive
from system.methods.prompts.s_prompts import SPrompts, SPromptsConfig


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean divergence of the student's scores (B, C) from the teacher's, by rows."""
    scores, targets = (log_softmax(x.float() / temperature, dim=1) for x in (student, teacher))
    divergence = kl_div(scores, targets, log_target=True, reduction="batchmean")
    return temperature**2 * divergence


@dataclass(frozen=True)
class LwfConfig(SPromptsConfig):
    """The settings of S-Prompts, and LwF's: `weight` is lambda_o, `temperature` T."""

    weight: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, self, "weight")
        check_positive(self, "temperature")


class Lwf(SPrompts):
    """Prompts, and while a later task trains, those that the task before left."""

    def __init__(self, config: LwfConfig, setting: MethodSetting[Any]) -> None:
        super().__init__(config, setting)
        self.weight = config.weight
        self.temperature = config.temperature
        # No buffers and no submodule: the teacher is what the task before saved, and the frozen
        # model is nobody's.
        self._teacher: dict[Modality, Tensor] = {}
        self._backbone: tuple[DualEncoder, ...] = ()

    @override
    def begin_task(self, task: int, model: nn.Module) -> None:
        """From the second task on: what is there now is the teacher."""
        super().begin_task(task, model)
        assert isinstance(model, DualEncoder)
        self._backbone = (model,)
        if task:
            self._teacher = {
                "vision": self.prompt("vision").detach().clone(),
                "text": self.prompt("text").detach().clone(),
            }

    @override
    def loss_terms(self, batch: Any, features: Mapping[Modality, Tensor]) -> dict[str, Tensor]:
        """The distillation of images over texts and of texts over images, from the second task."""
        if not (self._teacher and self.weight):
            return {}
        with torch.no_grad():
            images = self._taught("vision", batch.images)
            texts = self._taught("text", batch.input_ids)
        scale = self._backbone[0].logit_scale
        student = scale * features["vision"] @ features["text"].T
        teacher = scale * images @ texts.T
        both = torch.stack(
            [
                distillation(student, teacher, self.temperature),
                distillation(student.T, teacher.T, self.temperature),
            ]
        )
        return {"distillation": self.weight * both.mean()}

    def _taught(self, modality: Modality, inputs: Tensor) -> Tensor:
        """Unit features (B, P) under the teacher."""
        (backbone,) = self._backbone
        return unit(backbone(modality, inputs, self._teacher[modality][None], self.deep))


METHOD = MethodFactory(
    LwfConfig,
    retrieval=Lwf,
    no_sharing={
        "own": "is taught by the task before, and in a task's own parameters there is none: that "
        "is method=s_prompts; use shared or frozen"
    },
    refusal="distils similarities of images and texts, which a grounder does not have",
)

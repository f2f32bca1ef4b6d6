"""Linear probing of a grounder: linear maps of what leaves its two towers.

They start as the identity, so that training starts at the frozen grounder's own scores.
Trainable parameters: sum over the levels of P (P + 1), and D (D + 1) of the text.

Diff-Prompt's comparison, as GLIP, means something else by it (`variant` diff_prompt): the head's
own last layers learn from where they stand, those that read boxes, centre-ness and the scores of
words. What they see stays as it was; in the other form what the frozen head sees is what changes.

Legend: B batch, P width of a level, D width of the text tower, T tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from typing_extensions import override

from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory, Variant


@dataclass(frozen=True)
class LinearProbingConfig:
    """Which towers get a linear map, of the original form."""

    vision: bool = True
    text: bool = True
    variant: Variant = "original"

    def __post_init__(self) -> None:
        if not (self.vision or self.text):
            raise ValueError("vision=false and text=false leave nothing to learn")
        if self.variant == "diff_prompt" and not (self.vision and self.text):
            raise ValueError(
                "variant=diff_prompt trains the head's layers, so that vision and text have no "
                "effect; leave both true"
            )


class LinearProbing(Method):
    """A matrix and a bias for each level and for the text's tokens."""

    def __init__(self, config: LinearProbingConfig, setting: GroundingSetting) -> None:
        super().__init__()
        shape = setting.shape
        levels = shape.pyramid_widths if config.vision else ()
        self.levels = nn.ModuleList(_identity(width) for width in levels)
        self.text = _identity(shape.text_widths[-1]) if config.text else None

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return Entries(adapt_level=self._level if len(self.levels) else None, adapt_text=self.text)

    def _level(self, index: int, features: Tensor) -> Tensor:
        module = self.levels[index]
        assert isinstance(module, nn.Linear)
        # of (B, P, H, W) the second dimension
        return linear(features.movedim(1, -1), module.weight, module.bias).movedim(-1, 1)


def _identity(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(width))
        layer.bias.zero_()
    return layer


class HeadProbing(Method):
    """Copies of the parameters of the head's last layers."""

    per_sample = False

    def __init__(self, config: LinearProbingConfig, setting: GroundingSetting) -> None:
        super().__init__()
        self.head = nn.ParameterDict()

    @override
    def begin_task(self, task: int, model: nn.Module) -> None:
        super().begin_task(task, model)
        if not self.head:
            assert isinstance(model, Grounder)
            for name, value in model.head_layers.items():
                self.head[name.replace(".", "/")] = nn.Parameter(value.detach().clone())

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return Entries(head={name.replace("/", "."): value for name, value in self.head.items()})


METHOD = MethodFactory(LinearProbingConfig, grounding=LinearProbing, diff_prompt=HeadProbing)

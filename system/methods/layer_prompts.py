"""Prompts of each layer of a grounder, as Diff-Prompt's released code gives them to its baselines.

There VPT, CoOp, S-Prompts and MaPLe are one form (`variant` diff_prompt): 8 prompts for each of the
first 9 layers of a tower, in the text tower beside a layer's tokens, in the vision tower where
Diff-Prompt's own stand: of the first block's width, read at a wider block's, behind its norm.

Legend: L prompted layers, N prompt length, D width of a layer.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.backbones.dual_encoder import Modality
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GrounderShape, GroundingBatch
from system.grounders.swin_prompts import WindowEntry
from system.methods.base import GroundingSetting, Method
from system.methods.parts import check_readable, depth_in_each, normal, read_at_widths

RELEASED_LENGTH, RELEASED_DEPTH = 8, 9


def released_depth(depth: int | None, shape: GrounderShape, *towers: Modality) -> int:
    """How many layers have prompts: null is 9, or as many as each of the towers has.

    Raises ConfigError naming the tower that has fewer than asked for.
    """
    if depth is None:
        depth = min(RELEASED_DEPTH, *(len(shape.widths(tower)) for tower in towers))
    return depth_in_each(depth, shape, *towers)


def layer_prompts(
    rows: int, width: int, layers: int, std: float | None, generator: torch.Generator
) -> list[nn.Parameter]:
    """Prompts (N, D) of L layers, normal; `std` null is sqrt(2 / N), as released."""
    std = math.sqrt(2 / rows) if std is None else std
    return [normal(rows, width, std=std, generator=generator) for _ in range(layers)]


class LayerPrompts(Method):
    """Prompts of the first L layers of one tower or of both, the same for every sample.

    Trainable parameters: L N D of each tower, D of its first layer.
    """

    def __init__(
        self,
        lengths: Mapping[Modality, int | None],
        setting: GroundingSetting,
        *,
        depth: int | None = None,
        std: float | None = None,
    ) -> None:
        """`lengths` has N of each tower that gets prompts; null is 8."""
        super().__init__()
        shape, generator = setting.shape, setting.generator()
        layers = released_depth(depth, shape, *lengths)
        self.widths = shape.vision_widths[:layers]
        self.vision, self.text = nn.ParameterList(), nn.ParameterList()
        towers: dict[Modality, nn.ParameterList] = {"vision": self.vision, "text": self.text}
        for tower, length in lengths.items():
            rows = RELEASED_LENGTH if length is None else length
            if tower == "vision":
                check_readable(rows, self.widths, "method.prompt_length")
            width = shape.widths(tower)[0]
            towers[tower].extend(layer_prompts(rows, width, layers, std, generator))

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        return layer_entries(list(self.vision), list(self.text), self.widths)


def layer_entries(
    vision: Sequence[Tensor], text: Sequence[Tensor], widths: Sequence[int]
) -> Entries:
    """Entries of prompts (N, D), one a layer of each tower; `widths` are the vision blocks'."""
    read = read_at_widths([prompt[None] for prompt in vision], widths[: len(vision)])
    return Entries(text=[prompt[None] for prompt in text], windows=WindowEntry(read))

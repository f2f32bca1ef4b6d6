"""MaPLe: deep text prompts, and vision prompts that are linear functions of them.

Khattak et al., "MaPLe: Multi-modal prompt learning", CVPR 2023 (arXiv 2210.03117), equation 6:
the vision prompt of layer l is F_l(text prompt of layer l). All tasks share the prompts and the
coupling functions, which are trained on one task after the other.

L N Dt + C (Dt + 1) Dv numbers in all, C = L coupling functions, or 1 with `coupling` "shared". At
the published sizes (ViT-B/16, L = 9, N = 2): 3,555,072.

Legend: L layers with prompts, N prompt length, Dv and Dt widths of the towers.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from system.backbones.dual_encoder import Modality
from system.methods.method import MethodFactory, MethodSetting
from system.methods.shared_prompts import SharedPrompts, depth_within, normal, uniform


def coupled(text: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Vision prompts (L, N, Dv) from text prompts (L, N, Dt).

    `weight` (L, Dv, Dt) and `bias` (L, Dv) hold a linear function a layer, or (1, ...) one for all.
    """
    return text @ weight.mT + bias[:, None]


@dataclass(frozen=True)
class MapleConfig:
    """The settings of MaPLe.

    `prompt_depth` null means every layer of both towers, and a number as many of each as it has.
    """

    prompt_length: int = 2
    prompt_depth: int | None = None
    coupling: Literal["per_layer", "shared"] = "per_layer"
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.prompt_length < 1:
            raise ValueError(f"prompt_length={self.prompt_length} must be at least 1")
        if not self.init_std > 0:
            raise ValueError(f"init_std={self.init_std} must be above 0")


class Maple(SharedPrompts):
    """Text prompts and coupling functions, one set for all tasks.

    Text prompts of layers that only the vision tower has do not enter the text tower: they serve
    as the source of that layer's vision prompt.
    """

    def __init__(self, config: MapleConfig, setting: MethodSetting) -> None:
        super().__init__()
        shape = setting.shape
        depth = depth_within(config.prompt_depth, setting)
        self.entered: dict[Modality, int] = {
            "vision": min(depth, shape.vision_layers),
            "text": min(depth, shape.text_layers),
        }
        self.placeholders = config.prompt_length
        generator = torch.Generator().manual_seed(setting.seed)
        dv, dt = shape.vision_width, shape.text_width
        functions = self.entered["vision"] if config.coupling == "per_layer" else 1
        self.text = normal(
            depth, config.prompt_length, dt, std=config.init_std, generator=generator
        )
        self.weight = uniform(functions, dv, dt, inputs=dt, generator=generator)
        self.bias = uniform(functions, dv, inputs=dt, generator=generator)

    def prompts(self) -> dict[Modality, Tensor]:
        """Both towers' prompts (L, N, D)."""
        vision = coupled(self.text[: self.entered["vision"]], self.weight, self.bias)
        return {"vision": vision, "text": self.text[: self.entered["text"]]}


METHOD = MethodFactory(MapleConfig, Maple)

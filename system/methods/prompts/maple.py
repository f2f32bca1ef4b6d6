"""MaPLe: deep text prompts, and vision prompts that are linear functions of them.

Khattak et al., "MaPLe: Multi-modal prompt learning", CVPR 2023 (arXiv 2210.03117), equation 6:
the vision prompt of layer l is F_l(text prompt of layer l). All tasks share the prompts and the
coupling functions, which are trained on one task after the other; with `sharing: own`, as in LPI's
comparison, each task has its own, all from one draw, and the router names the task.

As in the released code (muzairkhattak/multimodal-prompt-learning) there are 9 prompted layers, and
the first text prompt starts as the first N words of "a photo of a" (`start: words`); more than
these words, and all later layers, start from a normal distribution. Differs from it: each coupling
function has its own draw, where the released ones of the later layers start as copies of one.
Before `start` was an option all layers had prompts, drawn from a normal distribution.

L N Dt + C (Dt + 1) Dv numbers in all, C = L coupling functions, or 1 with `coupling` "shared". At
the published sizes (ViT-B/16, L = 9, N = 2): 3,555,072; with L = 12 it would be 4,740,096. The
blocks of a grounder's Swin grow wider, so each has a function of its own: L N Dt, and the sum over
the prompted blocks of (Dt + 1) Dv.

Diff-Prompt's comparison has another form on a grounder (`variant` diff_prompt): 8 text prompts for
each of the first 9 layers, and functions of one size, to the first block's width, whose outputs are
read at a wider block's width, behind the norm: L N Dt + L (Dt + 1) Dv, 719,712 numbers on Swin-T
and a BERT of width 768. In wider blocks that is fewer rows, and far fewer numbers than here.

Legend: L layers with prompts, N prompt length, Dv and Dt widths of the towers or of their layers.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.backbones.dual_encoder import MODALITIES, DualEncoder, Modality
from system.errors import ConfigError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch
from system.methods.base import GroundingSetting, Method, MethodFactory, RetrievalSetting, Variant
from system.methods.layer_prompts import (
    RELEASED_DEPTH,
    RELEASED_LENGTH,
    layer_entries,
    layer_prompts,
)
from system.methods.parts import (
    INIT_STD,
    check_at_least,
    check_positive,
    check_readable,
    depth_in_each,
    normal,
    uniform,
)


def coupled(text: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Vision prompts (L, N, Dv) from text prompts (L, N, Dt).

    `weight` (L, Dv, Dt) and `bias` (L, Dv) hold a linear function a layer, or (1, ...) one for all.
    """
    return text @ weight.mT + bias[:, None]


PUBLISHED_LENGTH = 2
#: Of these the first N start a prompt of length N.
WORDS = "a photo of a"


def start_at(prompt: Tensor, words: Tensor) -> None:
    """Put the first words (T, Dt) into a prompt (N, Dt); one that is longer stays as drawn."""
    if len(prompt) <= len(words):
        with torch.no_grad():
            prompt.copy_(words[: len(prompt)])


@dataclass(frozen=True)
class MapleConfig:
    """The settings of MaPLe.

    `prompt_depth` is the number of prompted layers, or as many as a tower has; null means all, of
    variant diff_prompt nine. `start` is what the first text prompt starts from: "words", as
    released, or "normal"; variant diff_prompt has no words. `prompt_length` null is 2, or 8 of
    variant diff_prompt, and `init_std` null 0.02, or sqrt(2 / N).
    """

    prompt_length: int | None = None
    prompt_depth: int | None = None
    coupling: Literal["per_layer", "shared"] = "per_layer"
    init_std: float | None = None
    start: Literal["words", "normal"] = "normal"
    variant: Variant = "original"

    @property
    def length(self) -> int:
        """N of the original form."""
        return PUBLISHED_LENGTH if self.prompt_length is None else self.prompt_length

    @property
    def std(self) -> float:
        """Standard deviation of the text prompts at the start, of the original form."""
        return INIT_STD if self.init_std is None else self.init_std

    def __post_init__(self) -> None:
        check_at_least(1, self, "prompt_length", "prompt_depth")
        check_positive(self, "init_std")


class Maple(Method):
    """Text prompts and coupling functions; deep prompts replace.

    Text prompts of layers that only the vision tower has do not enter the text tower: they serve
    as the source of that layer's vision prompt.
    """

    deep = "replace"

    def __init__(self, config: MapleConfig, setting: RetrievalSetting) -> None:
        super().__init__()
        shape = setting.shape
        most = max(shape.layers(m) for m in MODALITIES)
        depth = min(config.prompt_depth or most, most)
        self.words = config.start == "words"
        self.entered: dict[Modality, int] = {m: min(depth, shape.layers(m)) for m in MODALITIES}
        self.placeholders = config.length
        generator = torch.Generator().manual_seed(setting.seed)
        dv, dt = shape.vision_width, shape.text_width
        functions = self.entered["vision"] if config.coupling == "per_layer" else 1
        self.text = normal(depth, config.length, dt, std=config.std, generator=generator)
        self.weight = uniform(functions, dv, dt, inputs=dt, generator=generator)
        self.bias = uniform(functions, dv, inputs=dt, generator=generator)

    @override
    def begin_task(self, task: int, model: nn.Module) -> None:
        """Before the first task: the words that the first text prompt starts from."""
        super().begin_task(task, model)
        assert isinstance(model, DualEncoder)
        if self.words and not next(model.parameters()).is_meta:  # there, sizes alone are asked for
            start_at(self.text[0], model.embed_words(WORDS))
        self.words = False

    @override
    def prompt(self, modality: Modality) -> Tensor:
        text = self.text[: self.entered[modality]]
        return text if modality == "text" else coupled(text, self.weight, self.bias)


class GroundingMaple(Method):
    """Text prompts (N, Dt), and a weight (Dv, Dt) and bias (Dv) a block."""

    def __init__(self, config: MapleConfig, setting: GroundingSetting) -> None:
        super().__init__()
        if config.coupling != "per_layer":
            raise ConfigError(
                f"method.coupling={config.coupling}: a grounder's blocks have several widths, "
                "which one function cannot serve; use per_layer"
            )
        shape = setting.shape
        most = depth_in_each(None, shape, "vision", "text")
        depth = min(config.prompt_depth or most, most)
        self.words = config.start == "words"
        generator = setting.generator()
        widths = list(zip(shape.vision_widths, shape.text_widths, strict=False))[:depth]
        self.text = nn.ParameterList(
            normal(config.length, dt, std=config.std, generator=generator) for _, dt in widths
        )
        self.weight = nn.ParameterList(
            uniform(dv, dt, inputs=dt, generator=generator) for dv, dt in widths
        )
        self.bias = nn.ParameterList(
            uniform(dv, inputs=dt, generator=generator) for dv, dt in widths
        )

    @override
    def begin_task(self, task: int, model: nn.Module) -> None:
        """Before the first task: the words that the first text prompt starts from.

        As they enter the first layer, since a prompt enters there, with positions and normalised.
        """
        super().begin_task(task, model)
        assert isinstance(model, Grounder)
        if self.words:
            tokens = model.tokenize([WORDS]).to(next(model.parameters()).device)
            with torch.no_grad():  # without the begin and the end token
                start_at(self.text[0], model.embed_text(tokens)[0, 1 : int(tokens.mask.sum()) - 1])
        self.words = False

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        parts = zip(self.text, self.weight, self.bias, strict=True)
        return Entries(
            vision=[coupled(text[None], weight[None], bias[None]) for text, weight, bias in parts],
            text=[text[None] for text in self.text],
        )


class LayerMaple(Method):
    """Text prompts (N, Dt), and functions to the first block's width, of the first L layers."""

    def __init__(self, config: MapleConfig, setting: GroundingSetting) -> None:
        super().__init__()
        shape, generator = setting.shape, setting.generator()
        most = depth_in_each(None, shape, "vision", "text")
        layers = min(config.prompt_depth or RELEASED_DEPTH, most)
        dv, dt = shape.vision_widths[0], shape.text_widths[0]
        rows = RELEASED_LENGTH if config.prompt_length is None else config.prompt_length
        functions = layers if config.coupling == "per_layer" else 1
        self.widths = shape.vision_widths[:layers]
        check_readable(rows, self.widths, "method.prompt_length")
        prompts = layer_prompts(rows, dt, layers, config.init_std, generator)
        self.text = nn.ParameterList(prompts)
        self.weight = uniform(functions, dv, dt, inputs=dt, generator=generator)
        self.bias = uniform(functions, dv, inputs=dt, generator=generator)

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        text = list(self.text)
        vision = coupled(torch.stack(text), self.weight, self.bias)
        return layer_entries(list(vision), text, self.widths)


METHOD = MethodFactory(
    MapleConfig, retrieval=Maple, grounding=GroundingMaple, diff_prompt=LayerMaple
)

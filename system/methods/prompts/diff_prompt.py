"""Diff-Prompt: instance prompts from the generator's latents beside learned global ones.

Yan et al., "Diff-Prompt: Diffusion-Driven Prompt Generator with Mask Supervision", ICLR 2025
(arXiv 2504.21423), stage 3. A layer's prompt is half the sample's, made by an adapter from the mask
that one step of denoising decodes to, and half the layer's own.

As released, each tower has one adapter of 8, 16, 32, 64, 128 channels (`adapter_base` 8), and the
visual prompt of 8 x 96 is read as 4 x 192, 2 x 384, 1 x 768 where a Swin is wider (`visual_prompt`
reshaped); it joins each window's tokens behind the block's norm as it is (`prompt_norm` none); the
layers' own halves start normal with a standard deviation of sqrt(2 / rows) (`init_std` null). Ours
is an adapter for each width, so that prompts are equally long in all blocks. Two mistakes of the
released code are options, `prompt_tiling` and `relative_bias`, see `system.grounders.swin_prompts`.

Trainable parameters of an adapter of base c for L layers of width D and masks of side H, with
s = H / 32: 9 c (1 + 170 c) + 31 c of its convolutions, (16 c s^2 + 1) N D / 2 of its linear layer,
and L N D / 2 of global prompts. As released (H = 224, N = 8, L = 9, widths 96 and 768): 21,907,072.

Legend: B batch, L prompted layers, N prompt length, D width of a layer, C latent channels, h w
latent height and width, H mask side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import ConfigError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GrounderShape, GroundingBatch
from system.grounders.swin_prompts import RelativeBias, Tiling, WindowEntry
from system.methods.base import GroundingSetting, LatentNeeds, MaskSource, Method, MethodFactory
from system.methods.parts import (
    check_at_least,
    check_positive,
    check_readable,
    np_seed,
    read_at_widths,
)

PUBLISHED_DEPTH = 9
PUBLISHED_BASE = 8
CHANNELS = (1, 2, 4, 8, 16)  # after each convolution of an adapter, times its base
#: Keys that adapters and runs of earlier versions hold: the base was given as times the smallest.
RENAMED = {"adapter_width": "adapter_base"}


@dataclass(frozen=True)
class DiffPromptConfig:
    """The method's settings.

    `specific` and `general` name the towers that get instance prompts and learned global ones, each
    N / 2 a layer: leaving one out is an ablation. The last six default to what adapters without
    these keys were learned with; configs/method/diff_prompt.yaml has what new runs start from.
    """

    generator: dict[str, Any]  # the settings of stage 2, whose model makes the latents
    prompt_length: int = 8
    depth: int | None = PUBLISHED_DEPTH  # null: 9, or as many layers as both towers have
    steps: int = 25  # of denoising
    stride: int = 2  # from one prompt layer's latent back to the next one's
    guidance: float = 1.0
    fresh_noise: bool = False  # new latents each epoch, instead of one set a run
    mask_source: MaskSource = "generated"  # or a control
    specific: tuple[Modality, ...] = MODALITIES
    general: tuple[Modality, ...] = MODALITIES
    adapter_base: int = 1  # of its convolutions' channels: times 1, 2, 4, 8, 16
    visual_prompt: Literal["reshaped", "per_width"] = "per_width"
    prompt_norm: Literal["none", "block"] = "block"  # what the visual prompt goes through
    prompt_tiling: Tiling = "sample"
    relative_bias: RelativeBias = "own"
    init_std: float | None = 0.02  # of global prompts; null: sqrt(2 / rows), as released

    def __post_init__(self) -> None:
        _check_halves(self.prompt_length)
        if self.depth is not None and self.depth < 1:
            raise ValueError(f"depth={self.depth} must be at least 1, or null")
        check_at_least(1, self, "adapter_base")
        check_positive(self, "init_std")
        if not self.specific and not self.general:
            raise ValueError("specific=[] and general=[] leave no prompt; name a tower in either")
        for name in ("specific", "general"):
            towers = getattr(self, name)
            if len(set(towers)) != len(towers):
                raise ValueError(f"{name}={list(towers)} names a tower twice")

    def layers(self, shape: GrounderShape) -> int:
        """How many layers of each tower get prompts.

        Raises ConfigError if a tower has fewer than `depth`, or the path too few steps for them.
        """
        have = {modality: len(shape.widths(modality)) for modality in MODALITIES}
        depth = min(PUBLISHED_DEPTH, *have.values()) if self.depth is None else self.depth
        for modality, count in have.items():
            if count < depth:
                raise ConfigError(
                    f"method.depth={depth}: the grounder's {modality} tower has only {count} "
                    f"layers; set method.depth to at most {min(have.values())}"
                )
        if self.specific:
            prompt_steps(depth, self.steps, stride=self.stride)
        return depth


def _check_halves(prompt_length: int) -> None:
    if prompt_length < 2 or prompt_length % 2:
        raise ValueError(
            f"prompt_length={prompt_length} must be even: half of it is specific, half global"
        )


def prompt_steps(layers: int, steps: int, *, stride: int = 2) -> tuple[int, ...]:
    """Which entry of the denoising path each prompt layer takes.

    The first layer takes the last step, the next ones go backwards by `stride`.

    Raises:
        ConfigError: more layers than the path has entries for.

    Source: Diff-Prompt (arXiv 2504.21423), stage 3: 25 steps, stride 2.
    """
    if layers < 1 or stride < 1:
        raise ConfigError(f"prompt layers={layers} and stride={stride} must be at least 1")
    needed = (layers - 1) * stride + 1
    if needed > steps:
        raise ConfigError(
            f"{layers} prompt layers take every {stride}. of the denoising steps, so at least "
            f"{needed} of them, but there are {steps}; lower the prompt depth or take more steps"
        )
    return tuple(steps - 1 - layer * stride for layer in range(layers))


@dataclass(frozen=True)
class PromptAdapterConfig:
    """What an adapter has to fit: one modality's layers and width, and the masks it gets."""

    layers: int
    width: int
    prompt_length: int = 8  # half of it specific, half global
    image_size: int = 224
    base: int = PUBLISHED_BASE  # channels of the first convolution
    init_std: float | None = None  # of global prompts; null: sqrt(2 / rows), as released
    specific: bool = True  # without: only the global half is there, and learns
    general: bool = True  # without: only the specific half

    def __post_init__(self) -> None:
        check_at_least(1, self, "layers", "width", "image_size", "base")
        _check_halves(self.prompt_length)


class PromptAdapter(nn.Module):
    """Five 3x3 convolutions of stride 2 and one linear layer, and a global prompt a layer.

    The convolutions are shared by the layers of one modality; which mask (which denoising step) a
    layer gets is the caller's choice. Modules carry the names of the released weights.

    Source: Diff-Prompt (arXiv 2504.21423), stage 3.
    """

    def __init__(self, config: PromptAdapterConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        half = config.prompt_length // 2
        side = config.image_size
        modules: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            channels = [config.base * count for count in CHANNELS]
            for inside, outside in pairwise([1, *channels]):  # a mask has one
                modules += [nn.Conv2d(inside, outside, 3, stride=2, padding=1), nn.SiLU()]
                side = math.ceil(side / 2)
            flat = channels[-1] * side**2
            modules += [nn.Flatten(), nn.Linear(flat, half * config.width)]
            self.model = nn.Sequential(*modules) if config.specific else None
            count = config.layers if config.general else 0
            std = math.sqrt(2 / half) if config.init_std is None else config.init_std
            self.global_prompt = nn.ModuleList(
                _GlobalPrompt(half, config.width, std) for _ in range(count)
            )

    def forward(self, mask: Tensor, layer: int) -> Tensor:
        """The prompt (B, N, D) of one layer from masks (B, 1, H, H) in [-1, 1]."""
        return torch.cat([self.specific(mask), self.general(layer).expand(len(mask), -1, -1)], 1)

    def specific(self, mask: Tensor) -> Tensor:
        """The half (B, N / 2, D) that masks (B, 1, H, H) make."""
        assert self.model is not None, "this adapter was built without a specific half"
        prompt: Tensor = self.model(mask).unflatten(1, (-1, self.config.width))
        return prompt

    def general(self, layer: int) -> Tensor:
        """The layer's global half (1, N / 2, D)."""
        module = self.global_prompt[layer]
        assert isinstance(module, _GlobalPrompt)
        return module.prompt[None]


class _GlobalPrompt(nn.Module):
    def __init__(self, length: int, width: int, std: float) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.empty(length, width).normal_(std=std))


class DiffPrompt(Method):
    """Adapters and global prompts of each tower; only these learn.

    Layers that share an adapter share its convolutions.
    """

    needs_latents = True

    def __init__(self, config: DiffPromptConfig, setting: GroundingSetting) -> None:
        super().__init__()
        self.config = config
        self.layers = config.layers(setting.shape)
        if config.specific:
            self.latent_needs = LatentNeeds(
                generator=config.generator,
                layers=self.layers,
                steps=config.steps,
                stride=config.stride,
                guidance=config.guidance,
                fresh_noise=config.fresh_noise,
                source=config.mask_source,
            )
        if config.specific and setting.masks is None:
            raise ConfigError("method=diff_prompt needs the Mask-VAE that its generator works with")
        self._masks = setting.masks
        self._widths = setting.shape.vision_widths[: self.layers]
        self.vision = self._tower("vision", setting)
        self.text = self._tower("text", setting)

    @override
    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        """Prompts of the first L layers of both towers, from latents (B, L, C, h, w)."""
        masks = None
        if self.config.specific:
            assert latents is not None, "diff_prompt was given no latents"
            assert self._masks is not None
            decoded = self._masks(latents.transpose(0, 1).flatten(0, 1))  # [L B, 1, H, H]
            masks = decoded.reshape(self.layers, -1, *decoded.shape[1:])  # [L, B, 1, H, H]
        config = self.config
        vision = self._prompts("vision", self.vision, masks)
        if config.visual_prompt == "reshaped":
            vision = read_at_widths(vision, self._widths)
        as_they_are = config.prompt_norm == "none"
        return Entries(
            vision=[] if as_they_are else vision,
            text=self._prompts("text", self.text, masks),
            windows=WindowEntry(
                vision if as_they_are else [], config.prompt_tiling, config.relative_bias
            ),
        )

    def _prompts(
        self, modality: Modality, adapters: nn.ModuleList, masks: Tensor | None
    ) -> list[Tensor]:
        """One prompt a layer, (B, N, D) or, without a specific half, (1, N / 2, D)."""
        prompts = []
        for adapter in adapters:
            assert isinstance(adapter, PromptAdapter)
            for place in range(adapter.config.layers):
                if modality not in self.config.specific:
                    prompts.append(adapter.general(place))
                    continue
                assert masks is not None
                mask = masks[len(prompts)]
                if modality in self.config.general:
                    prompts.append(adapter(mask, place))
                else:
                    prompts.append(adapter.specific(mask))
        return prompts

    def _tower(self, modality: Modality, setting: GroundingSetting) -> nn.ModuleList:
        """One adapter for each run of layers of one width, or for all layers if reshaped."""
        config = self.config
        specific, general = modality in config.specific, modality in config.general
        adapters = nn.ModuleList()
        if not specific and not general:
            return adapters
        widths = setting.shape.widths(modality)[: self.layers]
        if modality == "vision" and config.visual_prompt == "reshaped":
            rows = config.prompt_length // (1 if specific and general else 2)
            check_readable(rows, widths, "method.prompt_length")
            widths = widths[:1] * len(widths)
        for place, (width, run) in enumerate(groupby(widths)):
            sizes = PromptAdapterConfig(
                layers=len(list(run)),
                width=width,
                prompt_length=config.prompt_length,
                image_size=setting.masks.image_size if setting.masks else 1,
                specific=specific,
                general=general,
                base=config.adapter_base,
                init_std=config.init_std,
            )
            seed = np_seed(setting.seed, MODALITIES.index(modality), place)
            adapters.append(PromptAdapter(sizes, seed))
        return adapters


METHOD = MethodFactory(DiffPromptConfig, grounding=DiffPrompt, renamed=RENAMED)

"""DualPrompt: general prompts that all tasks share, and expert prompts with a key a task.

Wang et al., "DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning", ECCV 2022
(arXiv 2204.04799), for a dual encoder: both towers have general and expert prompts of their own.
General prompts enter the first layers, a task's expert prompts the layers after them. A task trains
its own experts; a test sample gets those whose key is nearest to its query, the frozen model's
feature, so no router is needed.

Prompts enter as prefixes, before the keys and values of a layer's attention (the paper's prefix
tuning, Pre-T, which it found better): `prompt_length` keys and as many values, of the general
prompts `general_length`, as in the released code (google-research/l2p: 20 and 5). With `entry:
prompt` they are tokens (its prompt tuning, Pro-T), of which a layer's take the place of those of
the layer before, so that all layers have one length; results of before `entry` was an option are
of that form. Differs from the paper besides: a key pulls with its cosine to the frozen model's
projected feature, and a task's experts have one key for all layers.

With `sharing: own` each task has general prompts and one set of experts, and the router names it.

Legend: B batch, K tasks, G layers with general prompts, E with expert ones, N vectors of a layer's
prompt (as a prefix, keys and values), D tower width, P feature width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.backbones.dual_encoder import MODALITIES, BackboneShape, DualEncoder, Modality
from system.errors import ConfigError
from system.methods.base import Method, MethodFactory, RetrievalSetting
from system.methods.keys import (
    cosines,
    feature_query,
    require_room,
    unit_directions,
)
from system.methods.parts import check_at_least, prompt_lengths


@dataclass(frozen=True)
class DualPromptConfig:
    """The settings of DualPrompt.

    A tower with fewer layers than both kinds take has expert prompts in as many as are left.
    `text_prompt_length` null means `prompt_length` for both towers, and `general_length` null that
    general prompts are as long as a tower's expert ones, which tokens have to be.
    """

    prompt_length: int = 20
    text_prompt_length: int | None = None
    general_layers: int = 2
    expert_layers: int = 3
    match_weight: float = 1.0
    init_std: float = 0.02
    entry: Literal["prefix", "prompt"] = "prompt"
    general_length: int | None = None

    def __post_init__(self) -> None:
        check_at_least(1, self, "prompt_length", "text_prompt_length", "general_length")
        check_at_least(1, self, "general_layers", "expert_layers")
        check_at_least(0, self, "match_weight", "init_std")
        if self.entry == "prompt" and self.general_length is not None:
            raise ValueError(
                f"general_length={self.general_length} goes with entry=prefix: as tokens the "
                "prompts of all layers have one length; set it to null"
            )


class Expert(nn.Module):
    """One task's prompts (E, N, D) of each tower and their keys (P,)."""

    def __init__(
        self, prompts: dict[Modality, Tensor], features: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.prompt = nn.ParameterDict({m: nn.Parameter(prompts[m]) for m in MODALITIES})
        self.key = nn.ParameterDict(
            {m: nn.Parameter(unit_directions(1, features, generator)[0]) for m in MODALITIES}
        )


class DualPrompt(Method):
    """G (Nv Dv + Nt Dt) shared numbers, and E (Nv Dv + Nt Dt) + 2 P of a task's own.

    With G = 2, E = 3, and ViT-B/16 (768, 512, P = 512): as prefixes of 5 and 20, thus N = 10 and
    40, 25,600 shared and 154,624 per task; as tokens of N = 20, 51,200 and 77,824.
    """

    grows = True

    def __init__(self, config: DualPromptConfig, setting: RetrievalSetting) -> None:
        super().__init__()
        self.config = config
        self.setting = setting
        self.shape: BackboneShape = setting.shape
        for m in MODALITIES:
            if config.general_layers >= self.shape.layers(m):
                raise ConfigError(
                    f"method.general_layers={config.general_layers} leaves no layer for expert "
                    f"prompts in the {m} tower of {self.shape.layers(m)} layers; lower it"
                )
        self.lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        self.prefix = config.entry == "prefix"
        self.placeholders = 0 if self.prefix else self.lengths["text"]
        require_room(self.shape, self.placeholders, f"prompts of length {self.placeholders}")
        self.general = nn.ParameterDict()
        self.experts = nn.ModuleList()

    @override
    def begin_task(self, task: int, model: nn.Module) -> None:
        """New experts and keys; before the first task's, the general prompts."""
        super().begin_task(task, model)
        draw = self.setting.task + len(self.experts)  # of an object that goes on: the task
        generator = replace(self.setting, task=draw).generator()
        if not self.experts:
            for m in MODALITIES:
                length = self.config.general_length or self.lengths[m]
                general = self._drawn(m, self.config.general_layers, length, generator)
                self.general[m] = nn.Parameter(general)
        prompts = {
            m: self._drawn(m, self._expert_layers(m), self.lengths[m], generator)
            for m in MODALITIES
        }
        self.experts.append(Expert(prompts, self.shape.feature_width, generator))

    @override
    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The general prompts, which every task goes on training, and the task's experts."""
        return {
            **{f"general.{name}": p for name, p in self.general.named_parameters()},
            **{f"expert.{name}": p for name, p in self._expert(task).named_parameters()},
        }

    @override
    def encode(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        """Features under the experts of each sample's nearest key, whatever its task."""
        query = feature_query(backbone, modality, inputs, self.placeholders)
        nearest = cosines(query, self._keys(modality)).argmax(1)
        present, position = torch.unique(nearest, return_inverse=True)
        return self._encode(backbone, modality, inputs, [int(task) for task in present], position)

    @override
    def encode_training(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features under the newest experts, and the matching loss: 1 - cosine to their key."""
        query = feature_query(backbone, modality, inputs, self.placeholders)
        newest = len(self.experts) - 1
        tasks = torch.full((len(inputs),), newest, device=inputs.device)
        similarity = cosines(query, self._keys(modality)).gather(1, tasks[:, None])[:, 0]
        features = self._encode(backbone, modality, inputs, [newest], torch.zeros_like(tasks))
        return features, {"key_match": self.config.match_weight * (1 - similarity)}

    def _encode(
        self,
        backbone: DualEncoder,
        modality: Modality,
        inputs: Tensor,
        tasks: Sequence[int],
        position: Tensor,
    ) -> Tensor:
        """Features under the general prompts and the experts at `position` (B,) of `tasks`."""
        experts = torch.stack([self._expert(task).prompt[modality] for task in tasks])
        general, own = self.general[modality], experts[position]  # (G, N, D), (B, E, N, D)
        features: Tensor
        if self.prefix:
            layers = [*general[:, None], *own.unbind(1)]
            features = backbone(modality, inputs, layers, deep="prefix")
        else:
            prompts = torch.cat([general.expand(len(own), -1, -1, -1), own], dim=1)
            features = backbone(modality, inputs, prompts, deep="replace")
        return features

    def _keys(self, modality: Modality) -> Tensor:
        """The keys (K, P) of all tasks so far."""
        return torch.stack([self._expert(t).key[modality] for t in range(len(self.experts))])

    def _expert(self, task: int) -> Expert:
        expert = self.experts[task]
        assert isinstance(expert, Expert)
        return expert

    def _expert_layers(self, modality: Modality) -> int:
        left = self.shape.layers(modality) - self.config.general_layers
        return min(self.config.expert_layers, left)

    def _drawn(
        self, modality: Modality, layers: int, length: int, generator: torch.Generator
    ) -> Tensor:
        vectors = 2 * length if self.prefix else length
        size = (layers, vectors, self.shape.width(modality))
        return torch.randn(size, generator=generator) * self.config.init_std


METHOD = MethodFactory(DualPromptConfig, retrieval=DualPrompt)

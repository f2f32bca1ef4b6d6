"""What learns a stream of retrieval tasks on a dual encoder: how features come about."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from system.backbones.dual_encoder import BackboneShape, DualEncoder, Modality
from system.methods.stream_method import StreamMethod
from system.registry import Registry


@dataclass(frozen=True)
class MethodSetting:
    """What a method is built from, beside its own section of the config."""

    shape: BackboneShape
    seed: int
    protocol: str  # "corrected" or "published"


class Method(StreamMethod[DualEncoder]):
    """A stream's method whose entries are those of a dual encoder."""

    #: Tokens that the text must leave free for a prompt.
    placeholders: int = 0

    @abstractmethod
    def encode(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor, tasks: Tensor
    ) -> Tensor:
        """Features (B, P), not normalised, of inputs (B, ...) under the prompts of `tasks` (B,)."""

    def encode_training(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor, tasks: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What `encode` gives, and weighted loss terms of each sample, (B,) by name.

        A term's mean over the global batch, and over the modalities that have it, is added to the
        loss.
        """
        return self.encode(backbone, modality, inputs, tasks), {}


def prompt_lengths(prompt_length: int, text_prompt_length: int | None) -> dict[Modality, int]:
    """Each tower's prompt length; null for the text's stands for the visual one's."""
    return {"vision": prompt_length, "text": text_prompt_length or prompt_length}


class PromptMethod(Method):
    """A method whose parameters become prompts at the entries of both towers."""

    @abstractmethod
    def prompt(self, modality: Modality, task: int) -> Tensor:
        """The prompt of one task, (L, N, D)."""

    def encode(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor, tasks: Tensor
    ) -> Tensor:
        """Features under each sample's own prompt: the choice is per sample, never per batch."""
        present, position = torch.unique(tasks, return_inverse=True)
        prompts = torch.stack([self.prompt(modality, int(task)) for task in present])
        if len(present) > 1:
            prompts = prompts[position]  # (B, L, N, D)
        features: Tensor = backbone(modality, inputs, prompts)
        return features


class MethodFactory:
    """How a registered method is built: its config dataclass and its class."""

    def __init__(self, config: type[Any], method: type[Method]) -> None:
        self.config = config
        self.method = method

    def build(self, section: Mapping[str, Any], setting: MethodSetting) -> Method:
        """The method of a config section; unknown keys and wrong values raise ConfigError."""
        from system.config.parse import parse_dataclass

        values = {key: value for key, value in section.items() if key != "name"}
        config = parse_dataclass(self.config, values, "method")
        return self.method(config, setting)  # type: ignore[call-arg]


def _on_a_grounder(name: str) -> str | None:
    from system.methods.grounding_method import GROUNDING_METHODS

    if name not in GROUNDING_METHODS:
        return None
    return (
        f"method={name} learns on a grounder, by expressions and boxes: use experiment=rec; a "
        f"stream of retrieval tasks takes one of {', '.join(METHODS)}"
    )


METHODS: Registry[MethodFactory] = Registry(
    "method", "system.methods", "METHOD", elsewhere=_on_a_grounder
)


def build_method(
    section: Mapping[str, Any], shape: BackboneShape, seed: int, protocol: str
) -> Method:
    """The method that a config section names, for a backbone of that shape.

    Raises ConfigError for an unknown name or key, a wrong value, or sizes that do not fit.
    """
    return METHODS.get(section["name"]).build(section, MethodSetting(shape, seed, protocol))

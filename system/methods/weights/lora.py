"""LoRA: a low-rank update of some projections of both towers, through Hugging Face's PEFT.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685),
equation 3: h = W0 x + (alpha / r) B A x, with A (r, D) drawn at random and B (D', r) zero at first.
One set of adapters goes from task to task, and nothing keeps what earlier tasks learned. With
`sharing: own` each task has a set of its own, which is frozen afterwards, and the router names the
task: the modules are copied for each task, the backbone's weights are not.

Trainable parameters, shared by all tasks or of each one's own: r (D + D') summed over the adapted
projections. At CLIP ViT-B/16's sizes with r = 8 in q and v of all layers: 12 x 2 x 8 x (2 x 768 + 2
x 512) = 491,520.

Legend: r rank, D and D' a projection's widths (input and output).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from system.backbones.dual_encoder import DualEncoder, Modality
from system.errors import ConfigError
from system.methods.base import Method, MethodFactory, RetrievalSetting
from system.methods.parts import check_at_least, check_positive

#: The linear layers of a transformer layer, by the names that CLIP and SigLIP share.
Projection = Literal["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@dataclass(frozen=True)
class LoraMethodConfig:
    """The settings of LoRA; `target_modules` are adapted in every layer of both towers."""

    rank: int = 8
    alpha: float = 8.0
    target_modules: tuple[Projection, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        check_at_least(1, self, "rank")
        check_positive(self, "alpha")
        if not self.target_modules:
            raise ValueError("target_modules=[] adapts nothing; name at least one")


class LoraAdapters(Method):
    """PEFT's adapters in modules of the method's own, which share the frozen backbone's weights."""

    def __init__(self, config: LoraMethodConfig, setting: RetrievalSetting) -> None:
        super().__init__()
        self.config = config
        self.setting = setting
        self.adapters = nn.ParameterList()
        self._names: tuple[str, ...] = ()
        # No submodule, like the backbone itself: its weights are not the method's.
        self._adapted: tuple[DualEncoder, ...] = ()
        _peft()  # missing, it has to be missed before anything starts

    @override
    def begin_task(self, task: int, model: nn.Module) -> None:
        """Put adapters into a twin of the backbone; A from the seed, B zero."""
        super().begin_task(task, model)
        if self._adapted:
            return
        assert isinstance(model, DualEncoder)
        peft = _peft()
        adapted = model.with_own_modules()
        names = "|".join(self.config.target_modules)
        section = peft.LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            # In the towers' layers alone: a pooling head's projections are called the same.
            target_modules=rf".*\.encoder\.layers\.\d+\..*\.({names})",
            lora_dropout=0.0,
        )
        with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator
            peft.inject_adapter_in_model(section, adapted)
        named = {name: p for name, p in adapted.named_parameters() if ".lora_" in name}
        for parameter in named.values():  # PEFT takes the type of the frozen weights
            parameter.data = parameter.data.float()
        self._start(named)
        self._names, self._adapted = tuple(named), (adapted,)
        self.adapters.extend(named.values())

    @override
    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """A and B of every adapted projection, under the backbone's names."""
        return dict(zip(self._names, self.adapters, strict=True))

    @override
    def encode(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        (adapted,) = self._adapted
        features: Tensor = adapted(modality, inputs, None)
        return features

    def _start(self, named: dict[str, nn.Parameter]) -> None:
        generator = self.setting.generator()
        with torch.no_grad():
            for name, parameter in named.items():
                start = torch.zeros(parameter.shape)
                if ".lora_A." in name:
                    # As the paper's code and PEFT do: uniform within 1 / sqrt(inputs).
                    nn.init.kaiming_uniform_(start, a=5**0.5, generator=generator)
                parameter.copy_(start)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            f"method.name=lora needs PEFT, which cannot be imported here ({error}); run "
            "`pip install peft`, or choose another method"
        ) from error
    return peft


METHOD = MethodFactory(LoraMethodConfig, retrieval=LoraAdapters)

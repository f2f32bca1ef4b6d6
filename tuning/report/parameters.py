"""How many parameters each method trains on CLIP ViT-B/16: counted on shapes alone, no weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from system.backbones.clip import ClipBackbone
from system.config.compose import composed_values, experiment_of, override
from system.config.schema import ExperimentConfig
from system.methods.base import RetrievalSetting, methods_on
from system.methods.sharing import build_method
from tuning.search.sweep_plan import Setting, SweepPlan

PUBLISHED_TASKS = 12
#: Settings beside those of the YAMLs whose cost is asked for: name -> overrides.
VARIANTS = {"lpi, interacting": ["method=lpi", "method.interaction.depth=null"]}
BYTES_PER_NUMBER = 4  # adapters are saved in float32


@dataclass(frozen=True)
class ParameterCount:
    """A method's trainable numbers over `PUBLISHED_TASKS` tasks.

    `per_task` trains at a time, `in_all` counts shared numbers once, `growth` is what each task
    after the first adds to it, `backbone` the frozen numbers below.
    """

    label: str
    per_task: int
    in_all: int
    growth: float
    backbone: int

    @property
    def bytes_in_all(self) -> int:
        """Trainable state of the whole stream."""
        return self.in_all * BYTES_PER_NUMBER

    @property
    def bytes_per_task(self) -> float:
        """What a further task adds to the trainable state."""
        return self.growth * BYTES_PER_NUMBER


@cache
def published_clip(device: str) -> ClipBackbone:
    """CLIP ViT-B/16 by its shapes: "meta" has no weights, "cpu" has memory that nothing fills.

    Radford et al. 2021, table 20: towers of 12 layers, 768 and 512 wide, joint width 512.
    """
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 16,
        },
        text_config={
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "vocab_size": 49408,
            "max_position_embeddings": 77,
        },
        projection_dim=512,
    )
    with torch.device("meta"):
        model = CLIPModel(config)
    return ClipBackbone(model.to_empty(device=device), name="CLIP ViT-B/16")


def count_all(overrides: Sequence[str], file: str | None = None) -> list[ParameterCount]:
    """Count every registered method at the settings of its YAML, and `VARIANTS`.

    With overrides or a file: the methods of the sweep that they name, or the experiment's own.
    Raises ConfigError as composing them does.
    """
    if not overrides and file is None:
        labels = {name: [override("method", name)] for name in methods_on("retrieval")} | VARIANTS
        return [_count(name, labels[name], None) for name in sorted(labels)]
    values = composed_values(overrides, file)
    if values.get("tune") is None:
        name = experiment_of(values).method["name"]
        return [_count(name, overrides, file)]
    plan = SweepPlan.compose(overrides, file)
    settings: list[Setting] = plan.settings(plan.bases)
    return [_count(s.label, [*overrides, *s.overrides], file) for s in settings]


def _count(label: str, overrides: Sequence[str], file: str | None) -> ParameterCount:
    experiment = experiment_of(composed_values(overrides, file))
    try:
        return _on(published_clip("meta"), label, experiment)
    except NotImplementedError:
        # Its first values depend on those of the tasks before: it needs real ones of its own.
        return _on(published_clip("cpu"), label, experiment)


def _on(backbone: ClipBackbone, label: str, experiment: ExperimentConfig) -> ParameterCount:
    setting = RetrievalSetting(backbone.shape, experiment.seed, experiment.protocol)
    method = build_method(experiment.method, setting)
    totals = []
    for task in range(PUBLISHED_TASKS):
        method.begin_task(task, backbone)
        totals.append(method.parameters_in_all())
    return ParameterCount(
        label=label,
        per_task=method.parameters_per_task(),
        in_all=totals[-1],
        growth=(totals[-1] - totals[0]) / (PUBLISHED_TASKS - 1),
        backbone=sum(p.numel() for p in backbone.parameters()),
    )

"""Counts of the parameters that each method trains on CLIP ViT-B/16, from shapes alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from system.backbones.clip import ClipBackbone
from system.config.compose import composed_values, experiment_of
from system.config.overrides import override
from system.config.schema import ExperimentConfig
from system.methods.base import RetrievalSetting, methods_on
from system.methods.sharing import build_method
from tuning.search.sweep_plan import SweepPlan

PUBLISHED_TASKS = 12
# Variants that are counted beside the methods' YAMLs: name -> overrides.
VARIANTS = {"lpi, interacting": ["method=lpi", "method.interaction.depth=null"]}
BYTES_PER_PARAMETER = 4  # adapters are saved in float32


@dataclass(frozen=True)
class ParameterCount:
    """A method's trainable parameters over `PUBLISHED_TASKS` tasks."""

    label: str
    per_task: int  # trained at a time
    total: int  # shared ones are counted once
    growth: float  # added to the total by each task after the first
    backbone: int  # frozen

    @property
    def bytes_total(self) -> int:
        """Size of the trained state of the whole stream."""
        return self.total * BYTES_PER_PARAMETER

    @property
    def bytes_per_task(self) -> float:
        """Size that each further task adds to it."""
        return self.growth * BYTES_PER_PARAMETER


@cache
def published_clip(device: str) -> ClipBackbone:
    """CLIP ViT-B/16 without values: on "meta" shapes alone, on "cpu" uninitialised memory.

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
    """Count every registered method with the config of its YAML, and `VARIANTS`.

    With overrides or a file: the methods of that sweep, or the method of that experiment. Raises
    ConfigError.
    """
    if not overrides and file is None:
        labels = {name: [override("method", name)] for name in methods_on("retrieval")} | VARIANTS
        return [_count(name, labels[name], None) for name in sorted(labels)]
    values = composed_values(overrides, file)
    if values.get("tune") is None:
        name = experiment_of(values).method["name"]
        return [_count(name, overrides, file)]
    plan = SweepPlan.compose(overrides, file)
    configs = plan.trial_configs(plan.bases)
    return [_count(each.label, [*overrides, *each.overrides], file) for each in configs]


def _count(label: str, overrides: Sequence[str], file: str | None) -> ParameterCount:
    experiment = experiment_of(composed_values(overrides, file))
    try:
        return _on(published_clip("meta"), label, experiment)
    except NotImplementedError:
        # Its initial values depend on those of earlier tasks, which "meta" tensors do not have.
        return _on(published_clip("cpu"), label, experiment)


def _on(backbone: ClipBackbone, label: str, experiment: ExperimentConfig) -> ParameterCount:
    setting = RetrievalSetting(backbone.shape, experiment.seed)
    method = build_method(experiment.method, setting)
    totals = []
    for task in range(PUBLISHED_TASKS):
        method.begin_task(task, backbone)
        totals.append(method.parameters_in_all())
    return ParameterCount(
        label=label,
        per_task=method.parameters_per_task(),
        total=totals[-1],
        growth=(totals[-1] - totals[0]) / (PUBLISHED_TASKS - 1),
        backbone=sum(p.numel() for p in backbone.parameters()),
    )

"""A small prompt generator on the benchmark of disks and squares, with the shipped CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from system.config.parse import parse_dataclass
from system.diff_prompt.prompt_generator.generator_settings import PromptGeneratorSettings
from system.diff_prompt.prompt_generator.generator_training import (
    GeneratorSamples,
    PromptGeneratorTraining,
)
from system.diff_prompt.prompt_generator.mask_dit import MaskDitConfig
from system.engine.model_stage import ModelExperiment
from system.engine.worker_group import WorkerGroup
from tests.diff_prompt.mask_files import SIDE

ALONE = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))
VAE = {
    "name": "mask_vae",
    "vae": {"image_size": SIDE, "channels": [8, 16]},
    "epochs": 1,
    "batch_size": 8,
}
STAGE = {
    "name": "prompt_generator",
    "encoder": {"name": "clip", "path": "shipped:tiny_clip"},
    "mask_vae": VAE,
    "network": {"depth": 1, "width": 128, "heads": 2, "patch": 4},
    "schedule": {"name": "squaredcos_cap_v2", "steps": 20},
    "epochs": 2,
    "batch_size": 8,
    "evaluated": 5,
    "sampling_steps": 5,
}


def experiment(root: Path, workers: int = 0, **stage: Any) -> ModelExperiment:
    return ModelExperiment.from_values(
        {
            "run_name": "generator",
            "storage_path": str(root / "runs"),
            "data_path": str(root),
            "seed": 0,
            "benchmark": {"name": "shapes", "dataset": "coco", "options": {}},
            "stage": STAGE | stage,
            "cluster": {
                "address": None,
                "workers": workers,
                "cpus_per_worker": 1,
                "gpu": False,
                "max_failures": 0,
            },
        }
    )


def samples(count: int = 20, width: int = 8) -> GeneratorSamples:
    draw = torch.Generator().manual_seed(1)
    return GeneratorSamples(
        torch.randn(count, 2, 4, 4, generator=draw),
        torch.randn(count, width, generator=draw),
        torch.randn(count, width, generator=draw),
        torch.arange(count)[:, None].expand(-1, 3),
    )


def training(count: int = 20, seed: int = 3, **stage: Any) -> PromptGeneratorTraining:
    """One without encoder and Mask-VAE, on random latents 2 x 4 x 4."""
    settings = parse_dataclass(PromptGeneratorSettings, STAGE | stage, "config.stage")
    network = MaskDitConfig(latent_channels=2, latent_size=4, depth=1, width=8, heads=2)
    return PromptGeneratorTraining(settings, network, samples(count), ALONE, seed=seed, digest="d")

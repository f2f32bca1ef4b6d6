"""Checks of the subjects of Diff-Prompt, each against the product's own code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from system.diff_prompt.mask_vae.mask_vae_network import mask_vae_loss
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT, MaskDitConfig
from system.diff_prompt.prompt_generator.noise import DiffusionTraining, NoiseSchedule, ScheduleName
from system.diff_prompt.prompt_generator.sampling import ddim_path
from system.methods.prompts.diff_prompt import PromptAdapter, PromptAdapterConfig, prompt_steps
from system.results.metrics import Overlap
from system.results.rec import best_hits, rec_recall
from tests.golden.runner import Fixture, Tolerance, check

Outputs = Mapping[str, NDArray[Any]]

KS = (1, 5, 10, None)


def _tensors(fixture: Fixture) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in fixture.items()}


def _weights(fixture: Fixture) -> dict[str, Tensor]:
    return {
        key.removeprefix("weights/"): value
        for key, value in _tensors(fixture).items()
        if key.startswith("weights/")
    }


@check("mask_vae_loss")
def _mask_vae_loss(fixture: Fixture) -> Outputs:
    inputs = _tensors(fixture)
    loss = mask_vae_loss(
        inputs["reconstruction"],
        inputs["mask"],
        inputs["mean"],
        inputs["logvar"],
        kl_weight=float(fixture["kl_weight"]),
    )
    return {"loss": loss.total.numpy(), "mse": loss.mse.numpy(), "kl": loss.kl.numpy()}


@check("mask_dit")
def _mask_dit(fixture: Fixture) -> Outputs:
    inputs, weights = _tensors(fixture), _weights(fixture)
    width = weights["pos_embed"].shape[-1]
    network = MaskDiT(
        MaskDitConfig(
            latent_channels=inputs["latent"].shape[1],
            latent_size=inputs["latent"].shape[-1],
            patch=int(fixture["patch"]),
            depth=sum(name.endswith("attn.qkv.weight") for name in weights),
            width=width,
            heads=int(fixture["heads"]),
            mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] // width,
        ),
        seed=0,
    )
    positions = network.pos_embed.detach().clone()
    network.load_state_dict(weights, strict=True)
    with torch.no_grad():
        output = network(
            inputs["latent"],
            inputs["timestep"],
            inputs["image_embedding"],
            inputs["text_embedding"],
        )
    return {"output": output.numpy(), "weights/pos_embed": positions.numpy()}


@check("diffusion", {"ddim_path": Tolerance(absolute=2e-4, relative=1e-4)})
def _diffusion(fixture: Fixture) -> Outputs:
    inputs = _tensors(fixture)
    names: tuple[ScheduleName, ...] = ("squaredcos_cap_v2", "linear")
    outputs: dict[str, NDArray[Any]] = {}
    steps = len(fixture["betas_linear"])
    for name in names:
        scheduler = NoiseSchedule(name, steps).scheduler()
        outputs[f"betas_{name}"] = scheduler.betas.numpy()
        outputs[f"alphas_cumprod_{name}"] = scheduler.alphas_cumprod.numpy()
    schedule = NoiseSchedule("squaredcos_cap_v2", steps)
    training = DiffusionTraining(schedule)
    noised = training.add_noise(inputs["x_start"], inputs["noise"], inputs["timesteps"])
    loss = training.loss(
        inputs["model_output"], inputs["x_start"], inputs["noise"], noised, inputs["timesteps"]
    )
    outputs |= {
        "x_t": noised.numpy(),
        "loss": loss.total.numpy(),
        "loss_mse": loss.mse.numpy(),
        "loss_vb": loss.variational.numpy(),
    }
    path = ddim_path(
        lambda x, t: 0.6 * x * torch.cos(t.to(x)[:, None, None, None] / 30) + 0.1,
        inputs["ddim_noise"],
        schedule,
        len(fixture["ddim_timesteps"]),
    )
    outputs["ddim_path"] = torch.stack(list(path)).numpy()
    layers = len(fixture["prompt_layer_to_step"])
    outputs["prompt_layer_to_step"] = np.array(prompt_steps(layers, len(fixture["ddim_path"])))
    return outputs


@check("prompt_adapter")
def _prompt_adapter(fixture: Fixture) -> Outputs:
    weights = _weights(fixture)
    mask = torch.from_numpy(fixture["mask"])
    half, width = weights["global_prompt.0.prompt"].shape
    layers = sum(name.startswith("global_prompt.") for name in weights)
    adapter = PromptAdapter(
        PromptAdapterConfig(
            layers,
            width,
            prompt_length=2 * half,
            image_size=mask.shape[-1],
            base=len(weights["model.0.weight"]),
        ),
        seed=0,
    )
    adapter.load_state_dict(weights, strict=True)
    prefix = "prompt_layer"
    with torch.no_grad():
        return {
            key: adapter(mask, int(key.removeprefix(prefix))).numpy()
            for key in fixture
            if key.startswith(prefix)
        }


@check("rec_recall")
def _rec_recall(fixture: Fixture) -> Outputs:
    inputs = _tensors(fixture)
    measures: tuple[Overlap, ...] = ("giou", "iou")
    outputs = {}
    for measure in measures:
        ranks = best_hits(
            list(inputs["boxes_xyxy"]), list(inputs["scores"]), inputs["target_xyxy"], measure
        )
        recall = rec_recall(ranks, KS)
        outputs[f"recall_{measure}_1_5_10_all"] = np.array([recall[k] for k in KS])
    return outputs

"""What a sample costs in the models of Diff-Prompt's stages, counted on the meta device."""

import torch
from torch import Tensor

from system.diff_prompt.mask_vae.mask_vae_network import build_mask_vae
from system.diff_prompt.mask_vae.stage import MaskVaePlan
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.engine.model_stage import ModelExperiment
from system.planning.costs import SAMPLES, Cost, Costs, bytes_of, counted, sketch
from system.planning.stage_work import VAE, VAE_DECODER, VAE_ENCODER
from system.planning.stream_work import CONDITION_IMAGE, CONDITION_TEXT, DENOISER
from system.planning.work import Mode


def stage_costs(experiment: ModelExperiment) -> Costs:
    """Of the stage's own model, and of those that it asks. Raises what its plan does."""
    if experiment.stage["name"] == "mask_vae":
        return _vae_costs(MaskVaePlan.of(experiment))
    plan = GeneratorPlan.of(experiment)
    vae = _vae_costs(plan.vae)
    generator = _generator_costs(plan)
    encoder = sketch(plan.settings.encoder)
    shape = encoder.shape
    with torch.device("meta"):
        images = torch.zeros(SAMPLES, 3, shape.image_size, shape.image_size)
        ids = torch.zeros(SAMPLES, shape.context_length, dtype=torch.long)
    conditions: dict[tuple[str, Mode], Cost] = {
        (CONDITION_IMAGE, "plain"): counted(lambda: encoder("vision", images, None), SAMPLES),
        (CONDITION_TEXT, "plain"): counted(lambda: encoder("text", ids, None), SAMPLES),
    }
    return Costs(
        {**vae.of, **generator.of, **conditions},
        vae.weights + generator.weights + bytes_of(encoder),
        generator.trainable,
        plan.network.width,
    )


def _vae_costs(plan: MaskVaePlan) -> Costs:
    sizes = plan.settings.vae
    with torch.device("meta"):
        pixels = torch.zeros(SAMPLES, 1, sizes.image_size, sizes.image_size)
        vae = build_mask_vae(sizes, 0).to("meta")

    def through() -> Tensor:
        latent = vae.encode(pixels).latent_dist
        restored: Tensor = vae.decode(latent.mean + latent.std).sample
        loss: Tensor = restored.sum() + latent.mean.sum()
        return loss

    def encode() -> Tensor:
        latent: Tensor = vae.encode(pixels).latent_dist.mean
        return latent

    whole, encoder = counted(through, SAMPLES), counted(encode, SAMPLES)
    kept = {id(p) for p in vae.parameters()}
    return Costs(
        {
            (VAE, "plain"): whole,
            (VAE, "training"): counted(through, SAMPLES, trains=True, kept=kept),
            (VAE_ENCODER, "plain"): encoder,
            (VAE_DECODER, "plain"): Cost(whole.flops - encoder.flops),
        },
        bytes_of(vae),
        sum(p.numel() for p in vae.parameters()),
    )


def _generator_costs(plan: GeneratorPlan) -> Costs:
    network, size = plan.network, plan.network.latent_size
    with torch.device("meta"):
        model = MaskDiT(network, seed=0).to("meta")
        latent = torch.zeros(SAMPLES, network.latent_channels, size, size)
        time = torch.zeros(SAMPLES, dtype=torch.long)
        condition = torch.zeros(SAMPLES, network.width)

    def predict() -> Tensor:
        predicted: Tensor = model(latent, time, condition, condition)
        return predicted.sum()

    kept = {id(p) for p in model.parameters()}
    return Costs(
        {
            (DENOISER, "plain"): counted(predict, SAMPLES),
            (DENOISER, "training"): counted(predict, SAMPLES, trains=True, kept=kept),
        },
        bytes_of(model),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
    )

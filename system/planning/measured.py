"""A few real steps of a run's first training, on this machine and in this process, without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import torch

from system.config.schema import ExperimentConfig
from system.data.shards.manifest import Manifest, SplitHandle
from system.diff_prompt.mask_vae.mask_vae_training import MaskVaeTraining
from system.diff_prompt.mask_vae.stage import MaskVaePlan
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.generator_training import GeneratorSamples
from system.diff_prompt.prompt_generator.stage import PromptGeneratorStage
from system.engine.cards import own_device
from system.engine.model_stage import ModelExperiment, show_nothing, stage_of
from system.engine.training import Training
from system.engine.worker_group import WorkerGroup
from system.errors import ConfigError
from system.objectives.objective import OBJECTIVES, Worker
from system.stream.learned_state import header_of

WARM_UP, STEPS = 2, 5


@dataclass(frozen=True)
class Measured:
    """Steps of the whole global batch on one device, loading among them."""

    device: str
    steps: int
    batch: int
    seconds: float  # of a step

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.batch / self.seconds


@dataclass(frozen=True)
class _First:
    """The lease of the stream's first task."""

    task: str
    index: int = 0


def this_device(experiment: ExperimentConfig | ModelExperiment) -> WorkerGroup:
    """One worker: on the GPU where the run asks for GPUs and one is here.

    Raises ConfigError for a run on GPUs where there is none.
    """
    device = own_device(
        experiment.cluster.gpu, "--measure computes here; measure on one that has one"
    )
    torch.set_num_threads(max(1, int(experiment.cluster.cpus_per_worker)))
    return WorkerGroup(rank=0, size=1, device=device)


def measure_stream(
    experiment: ExperimentConfig, manifest: Manifest, tasks: tuple[str, ...]
) -> Measured:
    """Of the first task, or of all tasks' samples for a method that joins them.

    Raises ConfigError for a method that trains nothing, and what its run would raise.
    """
    objective = OBJECTIVES.get(experiment.stage.objective)
    kind = objective.method_kind(experiment)
    if kind.trains_on == "nothing":
        raise ConfigError("--measure: the method trains nothing, so there is no step to measure")
    group = this_device(experiment)

    def opened(task: int, split: str | None = None) -> SplitHandle:
        return manifest.task(tasks[task]).handle(split or experiment.evaluation.splits[0])

    def train() -> SplitHandle:
        handles = [manifest.task(name).handle("train") for name in tasks]
        return SplitHandle.joined(handles) if kind.trains_on == "all" else handles[0]

    work = objective.work(Worker(experiment, experiment.inputs, group, opened, show_nothing))
    header = header_of(experiment, work.model, manifest.fingerprint, tasks)
    method = work.build_method(header)
    method.begin_task(0, work.model)
    training = work.training(
        _First(tasks[0]), method, torch.eye(1), open_train=train, show=lambda _: None
    )
    return measured_steps(training, lambda: training.batch_size)


def measure_stage(experiment: ModelExperiment) -> Measured:
    """Of a stage's model; the generator's on random latents and conditions, which cost the same."""
    group = this_device(experiment)
    stage = stage_of(experiment)
    if isinstance(stage, PromptGeneratorStage):
        plan = GeneratorPlan.of(experiment)
        settings, sizes = plan.settings, plan.network
        count = settings.batch_size * (WARM_UP + STEPS)
        shape = (count, sizes.latent_channels, sizes.latent_size, sizes.latent_size)
        samples = GeneratorSamples(
            torch.randn(shape),
            torch.randn(count, sizes.width),
            torch.randn(count, sizes.width),
            torch.arange(count)[:, None].expand(-1, 3),
        )
        made = stage.training(settings, sizes, samples, group, seed=plan.seed, digest="measured")
        return measured_steps(made, lambda: settings.batch_size)
    vae = MaskVaePlan.of(experiment)
    masks = [mask for found in vae.masks("train").values() for mask in found]
    own = replace(vae.settings, epochs=1)
    training = MaskVaeTraining(own, masks, group, seed=vae.seed, digest="measured")
    return measured_steps(training, lambda: own.batch_size)


def measured_steps(training: Training, batch_size: Callable[[], int]) -> Measured:
    """The mean of a few steps after the first ones, which start threads and choose kernels.

    An epoch of fewer steps is begun again. `batch_size` is known once batches are cut.
    """
    training.begin()
    device = training.group.device
    done, started, epoch = 0, 0.0, 0
    while done < WARM_UP + STEPS:
        steps, batches = training.batches(epoch, 0)
        with closing(batches):
            for step, batch in enumerate(islice(batches, WARM_UP + STEPS - done)):
                if done == WARM_UP:
                    started = _now(device)
                _step(training, batch, step, steps)
                done += 1
        epoch += 1
    seconds = (_now(device) - started) / STEPS
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    if device.type == "cpu":
        name += f", {torch.get_num_threads()} threads"
    return Measured(name, STEPS, batch_size(), seconds)


def _step(training: Training, batch: object, step: int, steps: int) -> None:
    training.set_rate(0, step, steps)
    training.optimiser.zero_grad(set_to_none=True)
    training.gradients(batch)
    gradients = [p for p in training.parameters.values() if p.grad is not None]
    if training.gradient_norm is not None:
        torch.nn.utils.clip_grad_norm_(gradients, training.gradient_norm)
    training.optimiser.step()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

"""Images per second of our training step against a plain PyTorch step, in turn on one device.

    python -m tests.gpu.throughput                    # ViT-B/16, batches of 64, on the GPU
    python -m tests.gpu.throughput --layers 1 --batch 2 --steps 2 --rounds 1 --device cpu

The step is LPI's on a CLIP of random weights, with what the epoch loop does in each: gradients of
the global batch, the watch on loss and gradient, the bound, the optimiser. Neither reads nor copies
an image. It needs torch and transformers, and neither Ray nor pyarrow.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from system.backbones.clip import ClipBackbone
from system.backbones.computation import Computation, placed
from system.config.schema import OptimiserConfig, Precision
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.optimisation import build_optimiser
from system.engine.step_watch import StepWatch
from system.engine.training import check_every_on
from system.engine.worker_group import WorkerGroup
from system.methods.base import RetrievalSetting
from system.methods.sharing import build_method
from tests.benchmarks.plain_step import plain_batch, plain_factors, plain_step, plain_vit_b16

Step = Callable[[], object]
BOUND = 1.0  # of the gradient's norm
LENGTH = 16  # of the prompts
PLAIN = "plain PyTorch, fp32"  # what the others are compared with


class OurStep:
    """A training step of ours on one batch, which is there already."""

    def __init__(self, clip: Any, pixels: Tensor, ids: Tensor, computation: Computation) -> None:
        """The model is copied: its weights are stored as they are computed with."""
        device = pixels.device
        backbone = ClipBackbone(copy.deepcopy(clip), computation=computation)
        self.backbone = placed(backbone, device)
        section = {"name": "lpi", "prompt_length": LENGTH, "interaction": {"depth": 0}}
        method = build_method(section, RetrievalSetting(backbone.shape, seed=0))
        method.begin_task(0, backbone)
        self.parameters = method.task_parameters(0)
        self.optimiser = build_optimiser(OptimiserConfig(), self.parameters)
        self.model = PromptedEncoder(method, backbone)
        # What the tokenizer would have padded the texts to.
        longest = int((ids == clip.config.text_config.eos_token_id).int().argmax(1).max()) + 1
        self.batch = TokenBatch(pixels, ids[:, : backbone.padded_length(longest)])
        self.group = WorkerGroup(rank=0, size=1, device=device)
        self.watch, self.every = StepWatch(), check_every_on(device)
        self.steps = 0

    def __call__(self) -> None:
        """Raises AssertionError where the training diverged."""
        self.optimiser.zero_grad(set_to_none=True)
        scale = self.backbone.logit_scale
        terms = accumulate_gradients(self.model, [self.batch], self.group, scale, None)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        self.watch.add(self.steps, terms, gradients)
        self.steps += 1
        if self.steps % self.every == 0:
            fault = self.watch.look()[1]
            assert fault is None, fault
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), BOUND)
        self.optimiser.step()


class PlainStep:
    """The same in plain PyTorch; with bf16 under autocast, as one writes it first."""

    def __init__(self, clip: Any, pixels: Tensor, ids: Tensor, *, bf16: bool = False) -> None:
        self.clip, self.pixels, self.ids, self.bf16 = clip, pixels, ids, bf16
        self.factors = plain_factors(clip, length=LENGTH)
        self.optimiser = torch.optim.SGD(self.factors.values(), lr=0.1, momentum=0.9)

    def __call__(self) -> None:
        """One step."""
        with torch.autocast(self.pixels.device.type, torch.bfloat16, enabled=self.bf16):
            plain_step(self.clip, self.factors, self.optimiser, self.pixels, self.ids, BOUND)


def default(precision: Precision, *, compiled: bool = False) -> Computation:
    """How CLIP computes by configs/backbone/clip.yaml, but for precision and compilation."""
    return Computation(precision, compile=compiled, text_padding="longest")


def seconds(step: Step, steps: int, device: torch.device) -> float:
    """Seconds of each of some steps, until the device has done all of them."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - started) / steps


def measured(
    device: torch.device,
    *,
    batch: int,
    layers: int,
    steps: int,
    rounds: int,
    compiled: bool = False,
    bf16: bool = False,
) -> dict[str, float]:
    """The least seconds of each kind of step, all of them in turn; the plain one comes first.

    Those in bf16 are among them where auto is that, or with `bf16`.
    """
    clip = plain_vit_b16(layers).to(device)
    pixels, ids = plain_batch(clip, batch, length=LENGTH)
    kinds: dict[str, Step] = {
        PLAIN: PlainStep(clip, pixels, ids),
        "ours, fp32": OurStep(clip, pixels, ids, default("fp32")),
        "ours, fp32, whole context": OurStep(clip, pixels, ids, Computation("fp32")),
    }
    if bf16 or Computation().precision_on(device) == "bf16":
        kinds["plain PyTorch, bf16 autocast"] = PlainStep(clip, pixels, ids, bf16=True)
        kinds["ours, bf16"] = OurStep(clip, pixels, ids, default("bf16"))
    if compiled:
        kinds["ours, auto, compiled"] = OurStep(clip, pixels, ids, default("auto", compiled=True))
    for step in kinds.values():
        step()  # what is compiled, chosen or reserved at the first step is no part of it
    best = dict.fromkeys(kinds, float("inf"))
    for _ in range(rounds):
        for name, step in kinds.items():
            best[name] = min(best[name], seconds(step, steps, device))
    return best


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for each kind of step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help=f"cuda or cpu; here {default}")
    parser.add_argument("--batch", type=int, default=64, help="images, each with a caption")
    parser.add_argument("--layers", type=int, default=12, help="of each tower")
    parser.add_argument("--steps", type=int, default=20, help="timed together")
    parser.add_argument("--rounds", type=int, default=5, help="of all kinds; the fastest counts")
    parser.add_argument("--compile", action="store_true", help="the compiled layers as well")
    parser.add_argument("--bf16", action="store_true", help="bf16 even where it is not native")
    given = parser.parse_args(words)
    device = torch.device(given.device)
    best = measured(
        device,
        batch=given.batch,
        layers=given.layers,
        steps=given.steps,
        rounds=given.rounds,
        compiled=given.compile,
        bf16=given.bf16,
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    auto = Computation().precision_on(device)
    sys.stdout.write(
        f"{name}, {torch.get_num_threads()} threads, batch {given.batch}, {given.layers} layers; "
        f"precision auto is {auto} here\n"
    )
    for kind, took in best.items():
        rate = f"{given.batch / took:10.1f} images/s"
        sys.stdout.write(f"{kind:30}{rate}   x{best[PLAIN] / took:.2f} of plain fp32\n")


if __name__ == "__main__":
    main()

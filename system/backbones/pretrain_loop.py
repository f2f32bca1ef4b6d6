"""Training loop of the small pre-trained models: schedule, optimizer, resumable checkpoints."""

import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from system.errors import StorageError

CHECKPOINT = "checkpoint.safetensors"
Batch = TypeVar("Batch")
Progress = Callable[[int, int, float], None]  # finished steps, all steps, loss


class Recipe(Protocol):
    """The settings that the loop reads of a pre-training's config, a frozen dataclass."""

    @property
    def steps(self) -> int:
        """Number of updates."""
        ...

    @property
    def learning_rate(self) -> float:
        """The rate after warming up."""
        ...

    @property
    def last_rate_share(self) -> float:
        """The rate at the end as a share of the full one."""
        ...

    @property
    def weight_decay(self) -> float:
        """Of weights; gains and biases are not decayed."""
        ...

    @property
    def warmup_steps(self) -> int:
        """Steps until the full rate."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""
        ...


def rate_at(step: int, recipe: Recipe) -> float:
    """Learning rate: linear warm-up, then half a cosine down to `last_rate_share`."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    wave = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    share = wave * (1 - recipe.last_rate_share) + recipe.last_rate_share
    return recipe.learning_rate * warm * share


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> float:
    """One update down the gradient of a loss, clipped to length 1; returns the loss."""
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def train(
    model: nn.Module,
    recipe: Recipe,
    directory: Path,
    make: Callable[[int], Batch],
    step_on: Callable[[torch.optim.Optimizer, Batch], float],
    progress: Progress | None,
) -> float:
    """All steps, from the directory's checkpoint on if there is one; returns the last loss.

    `make` gives the batch of a step, `step_on` does an update and returns its loss. An interrupted
    training ends with the same weights. Raises StorageError for a checkpoint of another recipe.
    """
    directory.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(model, recipe)
    text = json.dumps(asdict(recipe), sort_keys=True)  # type: ignore[call-overload]
    checkpoint = directory / CHECKPOINT
    first = _resume(checkpoint, model, optimizer, text) if checkpoint.is_file() else 0
    loss = math.nan
    for step, batch in _batches(make, first, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, recipe)
        loss = step_on(optimizer, batch)
        if progress is not None:
            progress(step + 1, recipe.steps, loss)
        # Also after the last step, so that an interruption before the export costs nothing.
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            _save(checkpoint, model, optimizer, step + 1, loss, text)
    return loss


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file that people read too."""
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _batches(make: Callable[[int], Batch], first: int, steps: int) -> Iterator[tuple[int, Batch]]:
    """Steps and their batches; the next batch is made meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(make, first) if first < steps else None
        step = first
        while upcoming is not None:
            batch = upcoming.result()
            upcoming = pool.submit(make, step + 1) if step + 1 < steps else None
            yield step, batch
            step += 1


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    loss: float,
    recipe: str,
) -> None:
    from safetensors.torch import save_file

    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{number}.{name}": value for name, value in state.items()})
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"step": str(step), "loss": repr(loss), "recipe": recipe})
    os.replace(partial, path)


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: str) -> int:
    """Load model and optimizer; returns the steps done."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["recipe"] != recipe:
        raise StorageError(f"{path} is of another recipe: remove it or choose another directory")
    weights = {n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")}
    model.load_state_dict(weights)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(metadata["step"])

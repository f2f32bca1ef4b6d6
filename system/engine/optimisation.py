"""The optimiser of a task and its learning-rate schedule, both resumable from plain tensors."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from system.config.schema import OptimiserConfig, Schedule


def build_optimiser(
    config: OptimiserConfig, parameters: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of a task's parameters, in the order of their names."""
    ordered = [parameters[name] for name in sorted(parameters)]
    if config.name == "adam":
        return torch.optim.Adam(ordered, lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.name == "adamw":
        return torch.optim.AdamW(ordered, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        ordered,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def set_rate(
    optimiser: torch.optim.Optimizer,
    config: OptimiserConfig,
    schedule: Schedule,
    *,
    step: int,
    epoch: int,
    steps: int,
    epochs: int,
) -> None:
    """Set the rate of a step, the `step`-th of an epoch's `steps`, from `learning_rate` on.

    cosine: after each step, towards 0 behind the last one; cosine_epochs: after each epoch, as
    PyTorch's CosineAnnealingLR does when it is stepped once an epoch.
    """
    factor = 1.0
    if schedule != "constant":
        done, total = epoch * steps + step, epochs * steps
        if schedule == "cosine_epochs":
            done, total = epoch, epochs
        factor = 0.5 * (1.0 + math.cos(math.pi * done / total))
    for group in optimiser.param_groups:
        group["lr"] = config.learning_rate * factor


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments as flat tensors, `<parameter index>.<name>`."""
    return {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})

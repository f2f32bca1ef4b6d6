"""The loop of pre-training: its rate, and a training that is stopped and resumed."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from system.backbones.pretrain_clip import PretrainConfig
from system.backbones.pretrain_loop import CHECKPOINT, Progress, rate_at, train, update
from system.errors import StorageError


@dataclass(frozen=True)
class Recipe:
    steps: int = 6
    learning_rate: float = 0.1
    last_rate_share: float = 0.1
    weight_decay: float = 0.01
    warmup_steps: int = 2
    checkpoint_every: int = 2


class StoppedError(Exception):
    pass


def trained(directory: Path, recipe: Recipe, progress: Progress | None = None) -> Tensor:
    """The weight of a line that is fitted to one point per step."""
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(0.0)
        model.bias.fill_(0.0)

    def step_on(optimizer: torch.optim.Optimizer, x: Tensor) -> float:
        return update(model, optimizer, (model(x) - 3 * x).square().mean())

    train(model, recipe, directory, lambda step: torch.full((1, 1), step + 1.0), step_on, progress)
    return model.weight.detach()


def test_the_learning_rate_warms_up_and_falls_to_its_last_share() -> None:
    rates = [rate_at(step, PretrainConfig()) for step in range(3000)]
    assert rates[0] == pytest.approx(1e-3 / 50)
    assert max(rates) == pytest.approx(1e-3, rel=1e-2)
    assert rates[-1] == pytest.approx(2e-5, rel=1e-2)


@pytest.mark.parametrize("stop_after", [1, 3, 6])
def test_a_stopped_training_ends_with_the_same_weights(tmp_path: Path, stop_after: int) -> None:
    """Half an hour of training must survive a kill, and the result must not depend on it."""
    expected = trained(tmp_path / "whole", Recipe())
    steps: list[int] = []

    def stop(done: int, total: int, loss: float) -> None:
        assert total == 6
        steps.append(done)
        if len(steps) == stop_after:
            raise StoppedError

    with pytest.raises(StoppedError):
        trained(tmp_path / "stopped", Recipe(), stop)
    assert torch.equal(trained(tmp_path / "stopped", Recipe(), stop), expected)
    assert steps[stop_after] == (stop_after - 1) // 2 * 2 + 1 if stop_after < 6 else True


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    """Going on with other settings would give a model that no recipe describes."""
    trained(tmp_path, Recipe())
    assert (tmp_path / CHECKPOINT).is_file()
    with pytest.raises(StorageError, match="another recipe: remove it"):
        trained(tmp_path, dataclasses.replace(Recipe(), learning_rate=0.2))

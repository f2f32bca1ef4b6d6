"""The generator's training: the same bits after a resume, the same batches for all workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from system.engine.model_checkpoint import ModelCheckpoint
from system.engine.model_epochs import DivergedModelError
from system.errors import ConfigError
from system.storage.files import Folder
from tests.diff_prompt.generator_parts import training


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    """A run that was killed would otherwise report other figures than one that was not."""
    whole, first, second = training(), training(), training()
    for _ in range(3):
        whole.epoch()
    first.epoch()
    first.state().write(Folder.of(tmp_path))
    state = ModelCheckpoint.read(Folder.of(tmp_path))
    assert state is not None
    second.restore(state)
    assert second.epochs_done == 1
    second.epoch()
    second.epoch()
    assert second.log == whole.log
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name


def test_the_noise_is_learned() -> None:
    learner = training(count=64, learning_rate=0.001, gradient_norm=1.0)
    losses = [learner.epoch()["mse"] for _ in range(16)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_bounded_gradient_moves_the_weights_otherwise() -> None:
    """A bound that is not applied is found out after hours, by a loss that jumps."""
    free, bound = training(), training(gradient_norm=1e-12)
    free.epoch()
    bound.epoch()
    name = "final_layer.linear.bias"
    start = torch.zeros_like(free.parameters[name])
    moved = [float((p.parameters[name].detach() - start).norm()) for p in (bound, free)]
    assert moved[0] < moved[1]


def test_samples_are_drawn_with_the_moving_average_of_the_weights() -> None:
    """Each step moves the average by 1 - decay of its way, and a young one moves faster."""
    learner = training(batch_size=20, ema_decay=0.5)
    name = "final_layer.linear.weight"
    expected = learner.parameters[name].detach().clone()
    for step in range(1, 9):
        learner.epoch()  # of one step
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * learner.parameters[name].detach()
    torch.testing.assert_close(learner.averaged().state_dict()[name], expected)
    assert not torch.allclose(expected, learner.parameters[name])


def test_more_micro_batches_change_nothing_but_rounding() -> None:
    """More workers cut the batch into more pieces."""
    few, many = training(micro_batches=2), training(micro_batches=4)
    for _ in range(2):
        few.epoch()
        many.epoch()
    for name, parameter in few.parameters.items():
        torch.testing.assert_close(parameter, many.parameters[name], rtol=1e-3, atol=1e-6)


def test_dropped_conditions_are_not_seen() -> None:
    """Guidance asks for a prediction without a condition, which has to have been trained."""
    for dropout, seen in ((0.999, False), (0.0, True)):
        plain, loud = (training(condition_dropout=dropout, learning_rate=0.01) for _ in range(2))
        loud.samples.texts.mul_(100.0)
        for _ in range(3):  # the condition's layers start at zero
            losses = plain.epoch()["loss"], loud.epoch()["loss"]
        assert (losses[0] != losses[1]) is seen


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    learner = training()
    with torch.no_grad():
        next(iter(learner.parameters.values())).fill_(float("nan"))
    with pytest.raises(DivergedModelError, match="learning_rate"):
        learner.epoch()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"guidance": 2.0}, "condition_dropout"),
        ({"sampling_steps": 3}, "must divide"),
        ({"held_out": "train"}, "held_out"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"batch_size": 9, "micro_batches": 2}, "micro-batches"),
        ({"sampling_step": 5}, "sampling_steps"),
        ({"schedule": {"name": "cosine"}}, "squaredcos_cap_v2"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        training(**change).epoch()

"""The generator's training: the same bits after a resume, the same batches for all workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from system.diff_prompt.prompt_generator.generator_training import PromptGeneratorTraining
from system.engine.epochs import DivergedError, EpochLoop
from system.errors import ConfigError
from system.storage.files import Folder
from tests.diff_prompt.generator_parts import samples, training


def learn(learner: PromptGeneratorTraining, epochs: int) -> list[dict[str, Any]]:
    """The log rows of some epochs, without a checkpoint."""
    loop = EpochLoop(learner, Folder.of("nowhere"))
    return [loop.epoch() for _ in range(epochs)]


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    """A run that was killed inside an epoch would otherwise report other values than one that was
    not: the moving average is part of the state.
    """
    whole, killed, resumed = training(), training(), training()
    log = EpochLoop(whole, Folder.of(tmp_path / "whole")).run()
    folder = Folder.of(tmp_path / "killed")
    killed.checkpoint_steps = 1
    stepped = killed.stepped

    def kill(steps: int) -> None:
        if steps == 4:  # after the checkpoint behind the third, inside the second epoch
            raise KeyboardInterrupt
        stepped(steps)

    killed.stepped = kill  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        EpochLoop(killed, folder).run()
    assert EpochLoop(resumed, folder).run() == log
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name
        assert torch.equal(whole.average[name], resumed.average[name]), name


def test_the_noise_is_learned() -> None:
    log = learn(training(count=64, learning_rate=0.001, gradient_norm=1.0), 16)
    assert log[-1]["mse"] < 0.9 * log[0]["mse"]


def test_a_bounded_gradient_moves_the_weights_otherwise() -> None:
    """A bound that is not applied is found out after hours, by a loss that jumps."""
    free, bound = training(), training(gradient_norm=1e-12)
    learn(free, 1)
    learn(bound, 1)
    name = "final_layer.linear.bias"
    start = torch.zeros_like(free.parameters[name])
    moved = [float((p.parameters[name].detach() - start).norm()) for p in (bound, free)]
    assert moved[0] < moved[1]


def test_samples_are_drawn_with_the_moving_average_of_the_weights() -> None:
    """Each step moves the average by 1 - decay of its way, and a young one moves faster."""
    learner = training(batch_size=20, ema_decay=0.5)
    name = "final_layer.linear.weight"
    expected = learner.parameters[name].detach().clone()
    loop = EpochLoop(learner, Folder.of("nowhere"))
    for step in range(1, 9):
        loop.epoch()  # of one step
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * learner.parameters[name].detach()
    torch.testing.assert_close(learner.averaged().state_dict()[name], expected)
    assert not torch.allclose(expected, learner.parameters[name])


def test_without_an_average_samples_are_drawn_with_the_weights_themselves() -> None:
    """As released; the published weights are no average."""
    learner = training(ema_decay=None)
    learn(learner, 1)
    for name, parameter in learner.parameters.items():
        assert torch.equal(learner.averaged().state_dict()[name], parameter), name
    assert not any(name.startswith("average") for name in learner.state())


def test_latents_are_drawn_anew_in_each_epoch_and_for_each_sample() -> None:
    """A generator of samples that saw one draw alone would learn that draw."""
    spread = replace(samples(4), deviations=torch.full((4, 2, 4, 4), 0.5))
    first, again, other = (spread.drawn([2, 0], seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(spread.drawn([0], 1)[0], first[1])
    many = torch.stack([spread.drawn([3], seed)[0] for seed in range(200)])
    torch.testing.assert_close(many.mean(dim=0), spread.latents[3], atol=0.2, rtol=0)
    assert float(many.std(dim=0).mean()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(samples(4).drawn([2, 0], 1), samples(4).latents[[2, 0]])


def test_more_micro_batches_change_nothing_but_rounding() -> None:
    """More workers cut the batch into more pieces."""
    few, many = training(micro_batches=2), training(micro_batches=4)
    learn(few, 2)
    learn(many, 2)
    for name, parameter in few.parameters.items():
        torch.testing.assert_close(parameter, many.parameters[name], rtol=1e-3, atol=1e-6)


def test_dropped_conditions_are_not_seen() -> None:
    """Guidance asks for a prediction without a condition, which has to have been trained."""
    for dropout, seen in ((0.999, False), (0.0, True)):
        plain, loud = (training(condition_dropout=dropout, learning_rate=0.01) for _ in range(2))
        loud.samples.texts.mul_(100.0)
        losses = [learn(learner, 3)[-1]["loss"] for learner in (plain, loud)]
        assert (losses[0] != losses[1]) is seen


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    learner = training()
    with torch.no_grad():
        next(iter(learner.parameters.values())).fill_(float("nan"))
    with pytest.raises(DivergedError, match="learning_rate"):
        learn(learner, 1)


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
        learn(training(**change), 1)

"""The epoch loop: resumes to the bit, stops before a step that spoils, says where it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from system.engine.checkpoint import FILE, Checkpoint, Position
from system.engine.epochs import DivergedError, EpochLoop
from system.engine.training import epoch_order
from system.errors import AdapterMismatchError, ConfigError
from system.storage.files import Folder
from tests.engine.line_training import CHECKPOINT_STEPS, POINTS, STEPS, LineTraining
from tests.engine.thread_group import on_threads


class KilledError(Exception):
    """Instead of a signal."""


def killed_at(epoch: int, step: int, folder: Folder, check_every: int = 1) -> None:
    """Train until a batch is asked for, and end there."""

    def kill(at_epoch: int, at_step: int) -> None:
        if (at_epoch, at_step) == (epoch, step):
            raise KilledError

    training = LineTraining(before=kill)
    training.check_every = check_every
    with pytest.raises(KilledError):
        EpochLoop(training, folder).run()


def state(training: LineTraining) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in training.state().items()}


@pytest.mark.parametrize(
    ("epoch", "step", "start"),
    [(0, 0, (0, 0)), (1, 0, (1, 0)), (1, 1, (1, 0)), (1, 2, (1, 2)), (2, 2, (2, 2))],
    ids=["at its start", "between epochs", "before a checkpoint", "inside an epoch", "in another"],
)
def test_a_killed_training_ends_with_the_same_bits(
    tmp_path: Path, epoch: int, step: int, start: tuple[int, int]
) -> None:
    """Parameters, what goes along with them, and the log: else a kill would change results."""
    whole = LineTraining()
    log = EpochLoop(whole, Folder.of(tmp_path / "whole")).run()
    folder = Folder.of(tmp_path / "killed")
    killed_at(epoch, step, folder)
    resumed = LineTraining()
    assert EpochLoop(resumed, folder).run() == log
    assert resumed.asked[0] == start, "batches that were done are asked for again"
    assert state(resumed) == state(whole)


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    """A worker that dies while it evaluates comes back to the end of its training."""
    folder = Folder.of(tmp_path)
    log = EpochLoop(LineTraining(), folder).run()
    again = LineTraining()
    assert EpochLoop(again, folder).run() == log
    assert again.asked == []


def test_the_log_has_the_means_of_an_epochs_terms(tmp_path: Path) -> None:
    """They are what loggers and pages draw."""
    terms: list[dict[str, Tensor]] = []

    class Recorded(LineTraining):
        def gradients(self, batch: list[int]) -> dict[str, Tensor]:
            terms.append(super().gradients(batch))
            return terms[-1]

    log = EpochLoop(Recorded(), Folder.of(tmp_path)).run()
    assert [row["epoch"] for row in log] == [0, 1, 2, 3]
    for row in log:
        of_epoch = terms[row["epoch"] * STEPS : (row["epoch"] + 1) * STEPS]
        for name in ("error", "size"):
            assert row[name] == pytest.approx(sum(float(term[name]) for term in of_epoch) / STEPS)
        assert row["loss"] == pytest.approx(row["error"] + row["size"])


@pytest.mark.parametrize(
    ("value", "what"),
    [(float("nan"), "the error loss"), (float("inf"), "the error loss"), (1e7, "the error loss")],
)
def test_a_loss_out_of_bounds_stops_before_the_step(
    tmp_path: Path, value: float, what: str
) -> None:
    """The parameters are still those of the step before, and the message says what to do."""

    class Diverging(LineTraining):
        largest_loss = 1e6

        def gradients(self, batch: list[int]) -> dict[str, Tensor]:
            terms = super().gradients(batch)
            return terms | {"error": torch.tensor(value)} if self.asked[-1][0] == 2 else terms

    training = Diverging()
    whole = LineTraining()
    whole.epochs = 2
    EpochLoop(whole, Folder.of(tmp_path / "whole")).run()
    message = (
        rf"{what} of the line is \S+ at epoch 2, step 0; its images here: [\d, ]+\. Kept: "
        r"its state after 2 epochs of 4\. Lower the rate"
    )
    with pytest.raises(DivergedError, match=message):
        EpochLoop(training, Folder.of(tmp_path)).run()
    assert state(training) == state(whole)


@pytest.mark.parametrize("every", [2, 3, 1000])
def test_looking_less_often_changes_no_result(tmp_path: Path, every: int) -> None:
    """On a GPU each look waits for the device: how often there is one must not matter."""
    often, seldom = LineTraining(), LineTraining()
    seldom.check_every = every
    log = EpochLoop(often, Folder.of(tmp_path / "often")).run()
    folder = Folder.of(tmp_path / "seldom")
    assert EpochLoop(seldom, folder).run() == log
    assert state(seldom) == state(often)
    killed = Folder.of(tmp_path / "killed")
    killed_at(1, 2, killed, check_every=every)
    resumed = LineTraining()
    resumed.check_every = every
    assert EpochLoop(resumed, killed).run() == log
    assert state(resumed) == state(often)


class DivergingAt(LineTraining):
    """Whose gradient is infinite from one step on; the loss stays a number in that step."""

    def __init__(self, epoch: int, step: int, every: int) -> None:
        super().__init__()
        self.check_every = every
        self.at = epoch * STEPS + step
        self.steps = 0

    def gradients(self, batch: list[int]) -> dict[str, Tensor]:
        terms = super().gradients(batch)
        if self.steps >= self.at:
            assert self.line.bias.grad is not None
            self.line.bias.grad.fill_(float("inf"))
        self.steps += 1
        return terms


@pytest.mark.parametrize("every", [1, 2, 1000])
def test_the_message_names_the_step_that_diverged_first(tmp_path: Path, every: int) -> None:
    """Not the one at which somebody looked: its images are those to look at."""
    with pytest.raises(DivergedError) as raised:
        EpochLoop(DivergingAt(1, 0, every), Folder.of(tmp_path)).run()
    order = ", ".join(map(str, epoch_order(POINTS, 7, 1, 1)[:4]))
    start = f"the gradient of the line is inf at epoch 1, step 0; its images here: {order}. "
    assert str(raised.value).startswith(start)
    assert "its state after 1 epochs of 4" in str(raised.value)


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (0, 1), (0, 2), (1, 1), (3, 2)])
def test_what_diverged_is_in_no_checkpoint(tmp_path: Path, epoch: int, step: int) -> None:
    """However seldom somebody looks: a run could otherwise not be mended by a lower rate."""
    folder = Folder.of(tmp_path / "diverged")
    with pytest.raises(DivergedError):
        EpochLoop(DivergingAt(epoch, step, 1000), folder).run()
    found = Checkpoint.read(folder)
    # Of the checkpoints in each epoch, after two steps and at its end, the last before it.
    done = epoch * STEPS + step
    kept = [0, *(e * STEPS + s for e in range(4) for s in (CHECKPOINT_STEPS, STEPS))]
    assert (found is None) == (done < CHECKPOINT_STEPS)
    if found is not None:
        position = found.position
        assert position.epoch * STEPS + position.step == max(at for at in kept if at <= done)
        assert all(tensor.isfinite().all() for tensor in found.tensors.values())


def test_a_gradient_that_is_no_number_stops_before_the_step(tmp_path: Path) -> None:
    """Its loss may still be one."""

    class Diverging(LineTraining):
        def gradients(self, batch: list[int]) -> dict[str, Tensor]:
            terms = super().gradients(batch)
            assert self.line.bias.grad is not None
            self.line.bias.grad.fill_(float("inf"))
            return terms

    training = Diverging()
    with pytest.raises(DivergedError, match=r"the gradient of the line is inf.*its start"):
        EpochLoop(training, Folder.of(tmp_path)).run()
    assert state(training) == state(LineTraining())


def test_a_parameter_that_is_no_number_reaches_no_checkpoint(tmp_path: Path) -> None:
    """A start from it could never be mended."""

    class Overflowing(LineTraining):
        def stepped(self, steps: int) -> None:
            if steps == STEPS:
                with torch.no_grad():
                    self.line.bias.fill_(float("nan"))

    folder = Folder.of(tmp_path)
    with pytest.raises(DivergedError, match="a parameter of the line is nan"):
        EpochLoop(Overflowing(), folder).run()
    found = Checkpoint.read(folder)
    assert found is not None
    assert found.position.step == 2


def test_another_trainings_checkpoint_is_refused_or_passed_over(tmp_path: Path) -> None:
    """A model must not go on with other data; a stream's task begins after the one before."""
    folder = Folder.of(tmp_path)
    EpochLoop(LineTraining(origin={"index": 0}), folder).run()
    with pytest.raises(ConfigError, match="another run_name"):
        EpochLoop(LineTraining(origin={"index": 1}), folder).run()

    class Next(LineTraining):
        def require_own(self, origin: Any) -> None:
            assert origin == {"index": 0}

    following = Next(origin={"index": 1})
    EpochLoop(following, folder).run()
    assert following.asked[0] == (0, 0)


def test_a_checkpoint_of_other_sizes_is_refused(tmp_path: Path) -> None:
    folder = Folder.of(tmp_path)
    training = LineTraining()
    tensors = training.state() | {"parameter.bias": torch.zeros(2)}
    Checkpoint(dict(training.origin), Position(), tensors).write(folder)
    with pytest.raises(AdapterMismatchError, match="bias"):
        EpochLoop(training, folder).run()


def test_a_step_s_gradient_is_bounded_over_all_parameters(tmp_path: Path) -> None:
    """One step with a gradient a thousand times as large can undo a whole training."""
    norms: dict[str, list[float]] = {"free": [], "bound": []}

    def learned(name: str, most: float | None) -> dict[str, Any]:
        training = LineTraining()
        training.gradient_norm = most
        step = training.optimiser.step

        def watched() -> None:
            gradients = [p.grad for p in training.parameters.values() if p.grad is not None]
            norms[name].append(float(torch.cat([g.flatten() for g in gradients]).norm()))
            step()

        training.optimiser.step = watched  # type: ignore[method-assign, assignment]
        EpochLoop(training, Folder.of(tmp_path / name)).run()
        return state(training)

    assert learned("free", None) != learned("bound", 0.1)
    assert max(norms["free"]) > 0.2
    assert max(norms["bound"]) == pytest.approx(0.1, rel=1e-4)


def test_progress_is_shown_at_the_end_of_each_epoch(tmp_path: Path) -> None:
    """However fast the steps are, a bar must come to its end."""
    training = LineTraining()
    log = EpochLoop(training, Folder.of(tmp_path)).run()
    ends = [progress for progress in training.shown if progress.step == STEPS]
    assert [progress.epoch for progress in ends] == [0, 1, 2, 3]
    assert [progress.loss for progress in ends] == pytest.approx([row["loss"] for row in log])
    assert (ends[-1].done, ends[-1].total) == (4 * STEPS, 4 * STEPS)


def test_workers_sums_survive_a_resume(tmp_path: Path) -> None:
    """Where each worker has a loss of its own part, the log is the mean of all of them."""

    class Part(LineTraining):
        local_terms = True

        def gradients(self, batch: list[int]) -> dict[str, Tensor]:
            return {name: v * (1 + self.group.rank) for name, v in super().gradients(batch).items()}

    def logs(folder: Folder, *kills: tuple[int, int]) -> list[list[dict[str, Any]]]:
        def kill(epoch: int, step: int) -> None:
            if (epoch, step) in kills:
                raise KilledError

        return on_threads(2, lambda group: EpochLoop(Part(group, before=kill), folder).run())

    whole = logs(Folder.of(tmp_path / "whole"))
    folder = Folder.of(tmp_path / "killed")
    with pytest.raises(KilledError):
        logs(folder, (1, 2))
    assert json.dumps(logs(folder)) == json.dumps(whole)
    alone = EpochLoop(LineTraining(), Folder.of(tmp_path / "alone")).run()
    assert whole[0][0]["error"] == pytest.approx(1.5 * alone[0]["error"])


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [flipped, lambda data: data[:-9], lambda data: b""])
def test_a_damaged_checkpoint_is_dropped_with_a_line_and_the_result_is_the_same(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """It can be made again: a run that ended there would have to be mended by hand."""
    whole = LineTraining()
    log = EpochLoop(whole, Folder.of(tmp_path / "whole")).run()
    folder = Folder.of(tmp_path / "killed")
    killed_at(1, 2, folder)
    folder.write(FILE, damage(folder.read(FILE)))
    resumed = LineTraining()
    assert EpochLoop(resumed, folder).run() == log
    assert state(resumed) == state(whole)
    (line,) = caplog.messages
    assert f"{FILE} is damaged" in line
    assert "the line is learned from its start" in line
    assert resumed.asked[0] == (0, 0)

"""A task's checkpoint gives back what it took."""

from pathlib import Path

import torch

from system.engine.task_checkpoint import TaskCheckpoint


def test_round_trip_to_the_bit() -> None:
    """Resuming inside a task depends on every tensor and every number."""
    state = TaskCheckpoint(
        task="food",
        index=3,
        epochs_done=2,
        backbone_fingerprint="ab",
        log=[{"epoch": 0, "loss": 0.1}],
        parameters={"position.vision": torch.randn(3, 2)},
        optimiser={"0.exp_avg": torch.randn(3, 2), "0.step": torch.tensor(7.0)},
    )
    with state.as_directory() as directory:
        assert sum(path.stat().st_size for path in directory.iterdir()) < 4096
        back = TaskCheckpoint.from_directory(directory)
        kept = Path(directory)
    assert not kept.exists()
    assert (back.task, back.index, back.epochs_done, back.log) == ("food", 3, 2, state.log)
    assert torch.equal(back.parameters["position.vision"], state.parameters["position.vision"])
    assert back.optimiser.keys() == state.optimiser.keys()
    assert all(torch.equal(back.optimiser[k], state.optimiser[k]) for k in back.optimiser)

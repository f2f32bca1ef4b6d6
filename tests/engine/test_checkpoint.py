"""A checkpoint gives back what it took, and a damaged one is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from system.engine.checkpoint import FILE, Checkpoint, Position, log_so_far
from system.errors import BrokenStorageError
from system.storage.files import Folder

POSITION = Position(2, 3, {"kl": [0.1, 0.3]}, [{"epoch": 0, "loss": 0.1}, {"epoch": 1}])
CHECKPOINT = Checkpoint(
    {"task": "food", "index": 3}, POSITION, {"parameter.vision": torch.randn(3, 2)}
)


def test_round_trip_to_the_bit(tmp_path: Path) -> None:
    """Resuming inside an epoch depends on every tensor and every number."""
    folder = Folder.of(tmp_path)
    assert Checkpoint.read(folder) is None
    CHECKPOINT.write(folder)
    back = Checkpoint.read(folder)
    assert back is not None
    assert (back.origin, back.position) == (CHECKPOINT.origin, POSITION)
    assert torch.equal(back.tensors["parameter.vision"], CHECKPOINT.tensors["parameter.vision"])


def test_the_log_is_read_without_the_tensors(tmp_path: Path) -> None:
    """Loggers look every few seconds, also while nothing is there yet."""
    folder = Folder.of(tmp_path)
    assert log_so_far(folder) == []
    CHECKPOINT.write(folder)
    assert log_so_far(folder) == POSITION.log


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """A user who knows which file it is can delete it."""
    folder = Folder.of(tmp_path)
    CHECKPOINT.write(folder)
    folder.write(FILE, folder.read(FILE)[:-1])
    with pytest.raises(BrokenStorageError, match=FILE):
        Checkpoint.read(folder)
    folder.write(FILE, b"no header")
    with pytest.raises(BrokenStorageError, match=FILE):
        Checkpoint.read(folder)
    assert log_so_far(folder) == []  # loggers have no use for an error


def test_a_models_checkpoint_of_earlier_versions_is_read(tmp_path: Path) -> None:
    """It has neither epoch nor step: it was written after a whole epoch."""
    folder = Folder.of(tmp_path)
    text = '{"digest": "d", "log": [{"epoch": 0}]}'
    folder.write(FILE, save({"parameter.a": torch.zeros(1)}, metadata={"position": text}))
    found = Checkpoint.read(folder)
    assert found is not None
    assert (found.origin, found.position) == ({"digest": "d"}, Position(1, log=[{"epoch": 0}]))

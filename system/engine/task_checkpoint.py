"""What a worker group needs to go on inside a task: the task's parameters and its optimiser."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from system.storage.adapters import prefixed, under

TENSORS = "task.safetensors"
POSITION = "task.json"


@dataclass(frozen=True)
class TaskCheckpoint:
    """The state of a task after some of its epochs."""

    task: str
    index: int
    epochs_done: int
    backbone_fingerprint: str
    log: list[dict[str, Any]]  # rows of the training log so far
    parameters: dict[str, Tensor]
    optimiser: dict[str, Tensor]

    @contextmanager
    def as_directory(self) -> Iterator[Path]:
        """A directory with the state, gone after the block."""
        tensors = prefixed("parameter", self.parameters) | prefixed("optimiser", self.optimiser)
        plain = {
            key: value
            for key, value in asdict(self).items()
            if key not in ("parameters", "optimiser")
        }
        with tempfile.TemporaryDirectory(prefix="promptide-") as name:
            directory = Path(name)
            save_file(
                {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
                directory / TENSORS,
            )
            (directory / POSITION).write_text(json.dumps(plain))
            yield directory

    @classmethod
    def from_directory(cls, directory: Path) -> "TaskCheckpoint":
        """The state that `as_directory` wrote."""
        tensors = load_file(directory / TENSORS)
        plain = json.loads((directory / POSITION).read_text())
        return cls(
            **plain, parameters=under("parameter", tensors), optimiser=under("optimiser", tensors)
        )


def latest_checkpoint() -> TaskCheckpoint | None:
    """What the worker group before this one reported last; None for the first."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as directory:
        return TaskCheckpoint.from_directory(Path(directory))

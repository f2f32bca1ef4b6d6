"""What a worker group needs to go on with a model's training: parameters and optimiser."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from system.errors import StorageError
from system.storage.files import Folder

FILE = "checkpoint.safetensors"
_POSITION = "position"


@dataclass(frozen=True)
class ModelCheckpoint:
    """The state of a training after some of its epochs.

    One file in the run directory, position and tensors together, so that it is replaced whole. Ray
    Train's own checkpoints would not be found again by a run without a worker group.
    """

    digest: str  # of all that determines the model: a checkpoint fits no other training
    log: list[dict[str, float]]  # one row an epoch that is done
    tensors: dict[str, Tensor]

    def write(self, folder: Folder) -> None:
        """Put this in the place of the last one."""
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in self.tensors.items()}
        position = json.dumps({"digest": self.digest, "log": self.log})
        folder.write(FILE, save(tensors, metadata={_POSITION: position}))

    @classmethod
    def read(cls, folder: Folder) -> ModelCheckpoint | None:
        """What `write` left last; None if there is none.

        Raises StorageError naming a file that is damaged.
        """
        if not folder.exists(FILE):
            return None
        data = folder.read(FILE)
        try:
            tensors = load(data)
            position = _position(io.BytesIO(data))
            return cls(position["digest"], position["log"], tensors)
        except (SafetensorError, ValueError, KeyError) as error:
            raise _damaged(folder, error) from error


def log_so_far(folder: Folder) -> list[dict[str, float]]:
    """The rows of the epochs that the last checkpoint holds, without reading its tensors.

    Raises StorageError naming a file that is damaged.
    """
    if not folder.exists(FILE):
        return []
    try:
        with folder.opened(FILE) as stream:
            log: list[dict[str, float]] = _position(stream)["log"]
    except (ValueError, KeyError) as error:
        raise _damaged(folder, error) from error
    return log


def epochs_done(folder: Folder) -> int:
    """How many epochs the last checkpoint holds; 0 where it cannot be told."""
    try:
        return len(log_so_far(folder))
    except StorageError:
        return 0


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _position(stream: _Bytes) -> dict[str, Any]:
    """From a safetensors file's free text: after 8 bytes of length comes a header of JSON."""
    length = int.from_bytes(stream.read(8), "little")
    position: dict[str, Any] = json.loads(
        json.loads(stream.read(length))["__metadata__"][_POSITION]
    )
    return position


def _damaged(folder: Folder, error: Exception) -> StorageError:
    return StorageError(
        f"{folder.file_uri(FILE)} is damaged ({error}); delete it to train from the start"
    )

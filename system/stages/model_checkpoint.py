"""What a worker group needs to go on with a model's training: parameters and optimiser."""

from __future__ import annotations

import json
from dataclasses import dataclass

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
            position = json.loads(_metadata(data)[_POSITION])
            return cls(position["digest"], position["log"], tensors)
        except (SafetensorError, ValueError, KeyError) as error:
            raise StorageError(
                f"{folder.file_uri(FILE)} is damaged ({error}); delete it to train from the start"
            ) from error


def epochs_done(folder: Folder) -> int:
    """How many epochs the last checkpoint holds; 0 where it cannot be told."""
    try:
        state = ModelCheckpoint.read(folder)
    except StorageError:
        return 0
    return len(state.log) if state else 0


def _metadata(data: bytes) -> dict[str, str]:
    """The free text of a safetensors file: after 8 bytes of length comes a header of JSON."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata

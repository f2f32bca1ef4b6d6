"""What a worker group needs to go on with a model's training: parameters and optimiser."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from system.engine.optimisation import optimiser_tensors, restore_optimiser
from system.errors import ConfigError, StorageError
from system.storage.adapters import prefixed, under
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


def training_state(
    digest: str,
    log: list[dict[str, float]],
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> ModelCheckpoint:
    """All that `restore_training` needs."""
    tensors = prefixed("parameter", parameters)
    tensors |= prefixed("optimiser", optimiser_tensors(optimiser))
    return ModelCheckpoint(digest, list(log), tensors)


def restore_training(
    state: ModelCheckpoint,
    digest: str,
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> list[dict[str, float]]:
    """Put parameters and moments back; the log so far.

    Raises ConfigError if the checkpoint belongs to another training.
    """
    if state.digest != digest:
        raise ConfigError(
            "the run's checkpoints were made with other settings or data; give this run "
            "another run_name"
        )
    saved = under("parameter", state.tensors)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    restore_optimiser(optimiser, under("optimiser", state.tensors))
    return list(state.log)


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

"""The one checkpoint file of a run: replaced whole, and found again by whatever goes on with it.

It lies in the run directory: Ray Train's own checkpoints belong to one of its runs, and are not
found by another one, or without a worker group.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from system.storage.files import Folder
from system.storage.seal import DamagedError, read_tensors, tensor_file

FILE = "checkpoint.safetensors"
MOST_HEADER_BYTES = 100_000_000  # the format's own bound
_POSITION = "position"
_WRONG = (ValueError, KeyError, TypeError, AttributeError)  # of a header that is none


@dataclass
class Position:
    """How far a training is, between two steps."""

    epoch: int = 0  # epochs done
    step: int = 0  # steps done of the running epoch
    #: Of each loss term over these steps, one sum per worker.
    sums: dict[str, list[float]] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)  # one row per epoch done


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training, as tensors and a position."""

    origin: dict[str, Any]  # which training it is of: plain values that no other training shares
    position: Position
    tensors: dict[str, Tensor]

    def write(self, folder: Folder) -> None:
        """Replace the folder's last checkpoint."""
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in self.tensors.items()}
        position = json.dumps({**self.origin, **vars(self.position)})
        folder.write(FILE, tensor_file(tensors, {_POSITION: position}))

    @classmethod
    def read(cls, folder: Folder) -> Checkpoint | None:
        """The last checkpoint that was written; None if there is none.

        Raises BrokenStorageError naming a file that is damaged.
        """
        if not folder.exists(FILE):
            return None
        data = folder.read(FILE)
        try:
            tensors = read_tensors(data)
            origin, position = _position(io.BytesIO(data))
        except (DamagedError, *_WRONG) as error:
            raise folder.damaged(FILE, error) from error
        return cls(origin, position, tensors)


def log_so_far(folder: Folder) -> list[dict[str, Any]]:
    """The log rows in the last checkpoint, without reading its tensors.

    None of a damaged one, which the training drops.
    """
    if not folder.exists(FILE):
        return []
    try:
        with folder.opened(FILE) as stream:
            return _position(stream)[1].log
    except _WRONG:
        return []


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _position(stream: _Bytes) -> tuple[dict[str, Any], Position]:
    """Origin and position from a safetensors header: 8 bytes of length, then JSON."""
    length = int.from_bytes(stream.read(8), "little")
    if length > MOST_HEADER_BYTES:
        raise ValueError("it has no header")
    header = json.loads(stream.read(length))
    values: dict[str, Any] = json.loads(header["__metadata__"][_POSITION])
    log = values.pop("log")
    # Files of earlier versions hold a model's digest and log alone, after a whole epoch.
    position = Position(
        values.pop("epoch", len(log)), values.pop("step", 0), values.pop("sums", {}), log
    )
    return values, position

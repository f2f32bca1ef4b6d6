"""Features of frozen models, computed once and shared by epochs, methods and runs.

A file's name, or that of the folder of many parts, is a digest of all that its content depends on:
the model's weights, the rows, the preprocessing. So an entry is never stale, it does not matter
who makes it, two runs that write the same one write the same bytes, and a part that is there after
a crash need not be made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from system.errors import BrokenStorageError, StorageError
from system.storage.files import Folder
from system.storage.foreign_json import parse_json
from system.storage.seal import DamagedError, check_table, read_tensors, tensor_file

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 512  # of a part
HELD_BYTES = 1 << 30  # of parts that `take` keeps in memory
_SHAPES = b"shapes"
LOG = logging.getLogger("promptide")


class FeatureStore:
    """A folder of features without prompts, one safetensors file per entry."""

    def __init__(self, folder: Folder, note: Callable[[str], None] = LOG.warning) -> None:
        """`note` takes a line on each entry that is damaged."""
        self.folder = folder
        self.note = note

    @staticmethod
    def key(**depends_on: Any) -> str:
        """The name of an entry from everything that determines it."""
        text = json.dumps(depends_on, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def find(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, or None. A damaged entry counts as missing and is made anew."""
        name = f"{key}.safetensors"
        if not self.folder.exists(name):
            return None
        try:
            return read_tensors(self.folder.read(name))
        except DamagedError as error:
            self.note(f"{self.folder.file_uri(name)} is damaged ({error}): it is made again")
            return None

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store an entry."""
        self.folder.write(
            f"{key}.safetensors", tensor_file({k: v.cpu().contiguous() for k, v in tensors.items()})
        )


class TensorParts:
    """`rows` rows in Parquet files of `part_rows` each: a float32 tensor of every name per row."""

    def __init__(self, folder: Folder, rows: int, part_rows: int = ROWS) -> None:
        self.folder = folder
        self.rows = rows
        self.part_rows = part_rows
        self._held: OrderedDict[int, dict[str, Tensor]] = OrderedDict()

    def part(self, index: int) -> range:
        """The rows of a part."""
        start = index * self.part_rows
        return range(start, min(start + self.part_rows, self.rows))

    @property
    def parts(self) -> int:
        """How many there are when all are made."""
        return -(-self.rows // self.part_rows)

    def made(self, index: int) -> bool:
        """Whether a part is there, as it was written; a damaged one is dropped with a line."""
        name = _name(index)
        if not self.folder.exists(name):
            return False
        try:
            if not check_table(self.folder.read(name)):
                self._table(index)  # of an earlier version: as far as reading it tells
        except (DamagedError, BrokenStorageError) as error:
            LOG.warning("%s is damaged (%s): it is made again", self.folder.file_uri(name), error)
            self.folder.delete(name)
            return False
        return True

    def write(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Store a part: by name a tensor (rows of the part, ...)."""
        import pyarrow as pa

        count = len(self.part(index))
        columns, shapes = [], {}
        for name, tensor in tensors.items():
            assert len(tensor) == count, (name, len(tensor), count)
            flat = tensor.detach().float().cpu().contiguous().reshape(count, -1)
            columns.append(
                pa.FixedSizeListArray.from_arrays(pa.array(flat.numpy().ravel()), flat.shape[1])
            )
            shapes[name] = list(tensor.shape[1:])
        table = pa.Table.from_arrays(columns, names=list(tensors))
        table = table.replace_schema_metadata({_SHAPES: json.dumps(shapes)})
        self.folder.write_table(_name(index), table)

    def read(self, index: int) -> dict[str, Tensor]:
        """A part's tensors by name.

        Raises StorageError naming a file that is damaged: it is dropped, so that whoever tries
        again makes it again.
        """
        try:
            table = self._table(index)
        except BrokenStorageError as error:
            self.folder.delete(_name(index))
            raise StorageError(f"{error}; it was deleted") from error
        shapes = parse_json(table.schema.metadata[_SHAPES])
        return {
            name: torch.from_numpy(
                np.array(table.column(name).combine_chunks().flatten(), dtype=np.float32)
            ).reshape(table.num_rows, *shapes[name])
            for name in table.column_names
        }

    def _table(self, index: int) -> pa.Table:
        name = _name(index)
        table = self.folder.read_table(name, values=False)
        if table.num_rows != len(self.part(index)) or _SHAPES not in (table.schema.metadata or {}):
            raise self.folder.damaged(name, "it does not hold the rows it should")
        return table

    def read_all(self) -> dict[str, Tensor]:
        """All rows, in order."""
        assert self.rows, "there is no row"
        parts = [self.read(index) for index in range(self.parts)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def take(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Some rows, in the order asked; parts read last are kept, up to HELD_BYTES."""
        found = [(self._hold(row // self.part_rows), row % self.part_rows) for row in rows]
        return {name: torch.stack([part[name][at] for part, at in found]) for name in found[0][0]}

    def _hold(self, index: int) -> dict[str, Tensor]:
        if index in self._held:
            self._held.move_to_end(index)
            return self._held[index]
        part = self.read(index)
        self._held[index] = part
        while len(self._held) > 1 and sum(map(_bytes, self._held.values())) > HELD_BYTES:
            self._held.popitem(last=False)
        return part


#: Makes the rows of a part: by name a tensor (rows, ...).
MakeRows = Callable[[range], Mapping[str, Tensor]]


def _name(index: int) -> str:
    return f"part-{index:06d}.parquet"


def _bytes(part: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in part.values())

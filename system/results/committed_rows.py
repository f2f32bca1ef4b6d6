"""Matrix rows as commits hold them: of each task only what differs from the task before.

After each of K tasks all K are evaluated, so whole rows come to K * K numbers a metric. But where
prompts of earlier tasks are frozen, few entries change from one task to the next. A packed row is
{"after": trained index, "metrics": {name: [new row or changes, entries]}, "reasons": texts, "data":
columns}, where the columns are compressed and float64 stays float64: what is read equals what was
written to the bit. Rows of earlier versions, one mapping an entry, are read as well.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.errors import DataError
from system.results.accuracy_matrix import (
    ZERO_SHOT,
    MatrixBlock,
    MatrixRow,
    matrix_blocks,
    row_of,
)

WHOLE, CHANGES = 0, 1
_COLUMNS: tuple[np.dtype[Any], ...] = (
    np.dtype("<i4"),
    np.dtype("<f8"),
    np.dtype("<i4"),
    np.dtype("<i4"),
)
_ENTRY = sum(column.itemsize for column in _COLUMNS)
_LARGEST = 2**28  # entries of one packed row; more are no row of ours

#: `matrix_blocks` of one commit, as JSON.
Packed = list[dict[str, Any]]


class CommittedRows:
    """Packs and unpacks the rows of one stream's commits, in the order of the tasks."""

    def __init__(self) -> None:
        self._last: dict[str, MatrixBlock] = {}  # after the task before, by metric

    def pack(self, rows: Iterable[MatrixRow]) -> Packed:
        """The rows of the next commit."""
        after: dict[int, list[MatrixBlock]] = {}
        for block in matrix_blocks(rows):
            after.setdefault(block.trained_index, []).append(block)
        return [self._packed(trained, blocks) for trained, blocks in after.items()]

    def unpack(self, packed: Sequence[Mapping[str, Any]]) -> list[MatrixBlock]:
        """The rows of the next commit, whole. Raises DataError for what `pack` did not give."""
        found: list[MatrixBlock] = []
        for entry in packed:
            if "data" in entry:
                found += self._unpacked(entry)
        plain = [row_of(entry) for entry in packed if "data" not in entry]
        for block in matrix_blocks(plain):
            self._keep(block)
            found.append(block)
        return found

    def _packed(self, trained: int, blocks: Sequence[MatrixBlock]) -> dict[str, Any]:
        metrics: dict[str, list[int]] = {}
        reasons: dict[str, int] = {}
        columns: list[tuple[NDArray[Any], ...]] = []
        for block in blocks:
            kind, there = self._new(block)
            metrics[block.metric] = [kind, int(there.sum())]
            evaluated = block.evaluated[there]
            why = np.full(len(evaluated), -1, np.int32)
            if block.reasons:
                for place, task in enumerate(evaluated.tolist()):
                    if task in block.reasons:
                        why[place] = reasons.setdefault(block.reasons[task], len(reasons))
            columns.append((evaluated, block.values[there], block.queries[there], why))
            self._keep(block)
        data = b"".join(
            np.concatenate([parts[place] for parts in columns]).astype(kind).tobytes()
            for place, kind in enumerate(_COLUMNS)
        )
        return {
            "after": trained,
            "metrics": metrics,
            "reasons": list(reasons),
            "data": base64.b64encode(zlib.compress(data)).decode(),
        }

    def _new(self, block: MatrixBlock) -> tuple[int, NDArray[np.bool_]]:
        """How a block is packed, and which of its entries are."""
        last = self._last.get(block.metric)
        every = np.ones(len(block.evaluated), np.bool_)
        if last is None or block.trained_index == ZERO_SHOT:
            return WHOLE, every
        both, ours, theirs = np.intersect1d(
            block.evaluated, last.evaluated, assume_unique=True, return_indices=True
        )
        if len(both) < len(last.evaluated):  # an entry of before is not there any more
            return WHOLE, every
        same = _bits(block.values[ours]) == _bits(last.values[theirs])
        same &= block.queries[ours] == last.queries[theirs]
        if block.reasons or last.reasons:
            said = [block.reasons.get(task) == last.reasons.get(task) for task in both.tolist()]
            same &= np.array(said, np.bool_)
        every[ours[same]] = False
        return CHANGES, every

    def _unpacked(self, entry: Mapping[str, Any]) -> list[MatrixBlock]:
        found: list[MatrixBlock] = []
        try:
            counts = [int(count) for _, count in entry["metrics"].values()]
            total = sum(counts)
            if min(counts, default=0) < 0 or total > _LARGEST:
                raise ValueError(f"{total} entries")
            columns = _read(entry["data"], total)
            start = 0
            for metric, (kind, count) in entry["metrics"].items():
                cut = [column[start : start + count] for column in columns]
                start += count
                texts, codes = entry["reasons"], cut[3].tolist()
                said = zip(cut[0].tolist(), codes, strict=True)
                why = {task: texts[code] for task, code in said if code >= 0}
                block = MatrixBlock(int(entry["after"]), metric, cut[0], cut[1], cut[2], why)
                block = self._onto_last(block) if kind == CHANGES else block
                self._keep(block)
                found.append(block)
        except (KeyError, TypeError, ValueError, IndexError, zlib.error) as error:
            raise DataError(f"a commit's rows of the matrix are broken: {error}") from error
        return found

    def _onto_last(self, block: MatrixBlock) -> MatrixBlock:
        """The whole block: what the one before had, but for these changes."""
        last = self._last[block.metric]
        kept = ~np.isin(last.evaluated, block.evaluated)
        evaluated = np.concatenate([last.evaluated[kept], block.evaluated])
        order = np.argsort(evaluated, kind="stable")
        changed = set(block.evaluated.tolist())
        before = {task: why for task, why in last.reasons.items() if task not in changed}
        return MatrixBlock(
            block.trained_index,
            block.metric,
            evaluated[order],
            np.concatenate([last.values[kept], block.values])[order],
            np.concatenate([last.queries[kept], block.queries])[order],
            before | dict(block.reasons),
        )

    def _keep(self, block: MatrixBlock) -> None:
        if block.trained_index != ZERO_SHOT:
            self._last[block.metric] = block


def unpacked(packed: Iterable[Sequence[Mapping[str, Any]]]) -> Iterator[MatrixBlock]:
    """The rows of all commits from the first on, each given as it was packed."""
    rows = CommittedRows()
    for commit in packed:
        yield from rows.unpack(commit)


def packed_numbers(numbers: NDArray[Any]) -> str:
    """An array (n,) as text for JSON, little-endian: float32, or bits of booleans."""
    if numbers.dtype == np.bool_:
        return base64.b64encode(np.packbits(numbers).tobytes()).decode()
    return base64.b64encode(numbers.astype("<f4").tobytes()).decode()


def unpacked_floats(text: str) -> NDArray[np.float32]:
    """The float32 numbers (n,) of `packed_numbers`."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def unpacked_bools(text: str, count: int) -> NDArray[np.bool_]:
    """The booleans (count,) of `packed_numbers`."""
    bits = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.unpackbits(bits, count=count).astype(np.bool_)


def _bits(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.ascontiguousarray(values).view(np.int64)  # a NaN equals itself here


def _read(text: str, count: int) -> list[NDArray[Any]]:
    """The columns of `count` entries."""
    size = count * _ENTRY
    reader = zlib.decompressobj()
    data = reader.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(data) != size or not reader.eof:
        raise ValueError(f"not the bytes of {count} entries")
    columns, start = [], 0
    for kind in _COLUMNS:
        columns.append(np.frombuffer(data, kind, count, start))
        start += count * kind.itemsize
    return columns

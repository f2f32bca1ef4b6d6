"""Which rows of a split a slot reads in an epoch, and how their order is shuffled."""

from collections.abc import Generator, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np

_PASS = 4  # a branch of the seed, whose own is the order of row groups; others: see `loading`
Item = TypeVar("Item")


class Share(NamedTuple):
    """Rows that a slot reads in one go: those of a pass, from one row group."""

    number: int  # of the pass over the split
    rows: Sequence[int]


def slot_shares(
    group_rows: Sequence[int], counts: Sequence[int], slots: int, seed: Sequence[int]
) -> list[list[Share]]:
    """Divide an epoch's samples among slots: for each slot what it reads, in order.

    The epoch goes over the split in passes, the p-th one over rows of more than p samples, so that
    samples of one row are far apart. In each pass the row groups are permuted by the seed; passes
    laid end to end have n samples, of which slot s owns [s n / S, (s + 1) n / S). So it reads few
    row groups, each from its front on.
    """
    first_rows = [0, *accumulate(group_rows)]
    laid: list[Share] = []
    for number in range(max(counts, default=0)):
        branch = (_PASS, number) if number else ()
        for group in np.random.default_rng([*seed, *branch]).permutation(len(group_rows)):
            every = range(first_rows[group], first_rows[group + 1])
            rows: Sequence[int] = every
            if min(counts[every.start : every.stop], default=0) <= number:
                rows = [row for row in every if counts[row] > number]
            laid.append(Share(number, rows))
    total, passed = sum(counts), 0
    shares: list[list[Share]] = [[] for _ in range(slots)]
    for piece in laid:
        size = len(piece.rows)
        for slot, share in enumerate(shares):
            start, stop = slot * total // slots, (slot + 1) * total // slots
            begin, end = max(start - passed, 0), min(stop - passed, size)
            if begin < end:
                share.append(Share(piece.number, piece.rows[begin:end]))
        passed += size
    return shares


def shuffled(
    rows: Iterator[Item], size: int, rng: np.random.Generator
) -> Generator[Item, None, None]:
    """Shuffle a stream through a buffer of at most `size` rows."""
    buffer: list[Item] = []
    for row in rows:
        if len(buffer) < size:
            buffer.append(row)
            continue
        at = int(rng.integers(len(buffer)))
        chosen, buffer[at] = buffer[at], row
        yield chosen
    while buffer:
        at = int(rng.integers(len(buffer)))
        buffer[at], buffer[-1] = buffer[-1], buffer[at]
        yield buffer.pop()

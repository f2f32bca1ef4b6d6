"""The referring expressions of a split that are learned from or evaluated, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from system.data.shards.manifest import SplitHandle
from system.data.shards.split_objects import (
    LeftOut,
    ReferredExpression,
    read_expressions,
    subsample,
)
from system.grounders.grounder import Grounder
from system.grounders.tokens import Tokens


@dataclass(frozen=True)
class ChosenExpressions:
    """Expressions of one split; `samples` are their places in `read_expressions`.

    `left_out` are those of the whole split that refer to a box without area.
    """

    handle: SplitHandle
    samples: Sequence[int]
    expressions: Sequence[ReferredExpression]
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return len(self.samples)


def chosen_expressions(handle: SplitHandle, most: int | None) -> ChosenExpressions:
    """The expressions of a split, or a random subsample of `most` of them.

    Raises DataError for an expression without a box.
    """
    left_out = LeftOut()
    every = list(read_expressions(handle, left_out))
    samples = subsample(len(every), most)
    return ChosenExpressions(handle, samples, [every[sample] for sample in samples], left_out)


@lru_cache(maxsize=4096)
def count_chosen(handle: SplitHandle, most: int | None) -> int:
    """How many `chosen_expressions` gives, read once a process."""
    return len(chosen_expressions(handle, most))


def expression_tokens(grounder: Grounder, expressions: Sequence[ReferredExpression]) -> Tokens:
    """Expressions as the grounder takes them, with the words that name each one's object."""
    spans = [expression.spans for expression in expressions] if grounder.spans_count else ()
    return grounder.tokenize([expression.text for expression in expressions], spans)

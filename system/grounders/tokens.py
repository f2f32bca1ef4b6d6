"""Expressions as tokens, and which of these name the object.

Legend: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

Span = tuple[int, int]  # characters of a text: begin, end (not included)


@dataclass(frozen=True)
class Tokens:
    """A batch of expressions, padded."""

    ids: Tensor  # (B, T)
    mask: Tensor  # (B, T), 1 where a token is the expression's
    #: (B, T), True where a token names the object; None: all of every expression's words do.
    positive: Tensor | None = None

    def to(self, device: torch.device) -> Tokens:
        """The same on a device."""
        positive = None if self.positive is None else self.positive.to(device)
        return Tokens(self.ids.to(device), self.mask.to(device), positive)

    def padded(self, length: int, padding: int) -> Tokens:
        """The same with tokens of that id behind, so that there are at least `length`."""
        more = (0, max(0, length - self.ids.shape[1]))
        positive = None if self.positive is None else pad(self.positive, more)
        return Tokens(pad(self.ids, more, value=padding), pad(self.mask, more), positive)


def positive_tokens(offsets: Sequence[Span], spans: Iterable[Span]) -> list[int]:
    """The tokens that spans of a text cover, each from its first to its last one.

    `offsets` are the characters of each token, begin and end; of a special one both are 0. As
    MDETR and GLIP have it, a span's first character or one of the two behind it has to be a
    token's, and its last one or one of the two before; otherwise it covers none.
    """
    holder = {at: token for token, (begin, end) in enumerate(offsets) for at in range(begin, end)}
    covered: set[int] = set()
    for begin, end in spans:
        firsts = (holder.get(at) for at in (begin, begin + 1, begin + 2))
        lasts = (holder.get(at) for at in (end - 1, end - 2, end - 3))
        first = next((token for token in firsts if token is not None), None)
        last = next((token for token in lasts if token is not None), None)
        if first is not None and last is not None:
            covered.update(range(first, last + 1))
    return sorted(covered)


def positive_mask(offsets: Sequence[Sequence[Span]], spans: Sequence[Sequence[Span]]) -> Tensor:
    """Mask (B, T) of the tokens that name each text's object; all of them where it has no span.

    None of them where its spans cover no token: as in GLIP's released code nothing is found then.

    `offsets` are those of each text's T tokens, padding and special ones as (0, 0).
    """
    mask = torch.ones(len(offsets), max(map(len, offsets), default=0), dtype=torch.bool)
    for row, of_text, of_object in zip(mask, offsets, spans, strict=True):
        if of_object:
            row[:] = False
            row[positive_tokens(of_text, of_object)] = True
    return mask

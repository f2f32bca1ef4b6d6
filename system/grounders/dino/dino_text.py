"""Texts as the Grounding DINO family takes them: each is one phrase with a closing stop.

Legend: B batch, T tokens.
"""

from collections.abc import Container, Sequence
from typing import Any

import torch

from system.errors import DataError
from system.grounders.tokens import Span, Tokens, positive_mask

_ADDED = 3  # begin, stop, end


def phrase_lengths(tokenizer: Any, special: Container[int], texts: Sequence[str]) -> list[int]:
    """How many tokens each text has as `phrase_tokens` would make them without a limit."""
    # Its warning of texts beyond the context is what this is for.
    found = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [_ADDED + sum(word not in special for word in words) for words in found]


def phrase_tokens(
    tokenizer: Any,
    special: Container[int],
    context_length: int,
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]],
) -> Tokens:
    """Begin, words, a stop, end, padding, at most `context_length` of them.

    `special` are the tokens that end a phrase: of a text's own none is kept. `spans` are the
    characters of each text that name its object. Raises DataError for a text without a word.
    """
    stop = tokenizer.convert_tokens_to_ids(".")
    room = context_length - _ADDED
    encoded = (
        tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=any(spans))
        if texts
        else {"input_ids": []}
    )
    rows, offsets = [], []
    for index, (text, found) in enumerate(zip(texts, encoded["input_ids"], strict=True)):
        words = [at for at, word in enumerate(found) if word not in special][:room]
        if not words:
            raise DataError(f"the expression {text!r} has no word; correct or remove it")
        kept = [found[at] for at in words]
        rows.append([tokenizer.cls_token_id, *kept, stop, tokenizer.sep_token_id])
        if any(spans):
            places = [tuple(encoded["offset_mapping"][index][at]) for at in words]
            offsets.append([(0, 0), *places])
    longest = max(map(len, rows), default=0)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    if not any(spans):
        return Tokens(ids, mask)
    padded = [[*of_text, *[(0, 0)] * (longest - len(of_text))] for of_text in offsets]
    return Tokens(ids, mask, positive_mask(padded, spans))

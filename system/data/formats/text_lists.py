"""Lists of texts that a table holds as text, as JSON or as Python writes them."""

import ast
import io
import tokenize
from itertools import pairwise
from typing import Any

from system.storage.foreign_json import parse_json

_LONGEST = 1 << 20  # characters
_BETWEEN = {tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT}


def listed(text: str) -> list[Any] | None:
    """Return the items of a list that is written as text, None for a text that is none.

    `["a", "b"]` is read as JSON, `['a', "b"]` as Python's own form, and `['a' 'b']` as an array's
    of NumPy. No code is evaluated.
    Raises: ValueError for what begins as a list of texts but is none.
    """
    text = text.strip()
    if text[:1] not in ("[", "(") or len(text) > _LONGEST:
        return None
    if text[0] == "[" and text[-1] == "]":
        try:
            found = parse_json(text)
        except ValueError:
            pass
        else:
            assert isinstance(found, list)
            return found
    items = _literals(text)
    if items is None and text[:2] in ('["', "['"):
        raise ValueError("begins as a list of texts but is none")
    return items


def _literals(text: str) -> list[str] | None:
    """Return the string literals of Python's form of a list or tuple; adjacent ones stay apart."""
    items: list[str] = []
    words: list[str] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING:
                value = ast.literal_eval(token.string)
                if not isinstance(value, str):
                    return None
                items.append(value)
                words.append("text")
            elif token.type not in _BETWEEN:
                words.append(token.string)
    except (tokenize.TokenError, SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    if len(words) < 3 or (words[0], words[-1]) not in (("[", "]"), ("(", ")")):
        return None
    inside = words[1:-1]
    # A single text in brackets may be a remark, a tuple of one has its comma.
    if words[0] == "(" and "," not in inside:
        return None
    separated = [word for word in inside if word != "text"]
    if any(word != "," for word in separated) or inside[0] == ",":
        return None
    if any(a == b == "," for a, b in pairwise(inside)):
        return None
    return items

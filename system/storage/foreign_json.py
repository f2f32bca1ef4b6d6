"""JSON that somebody else may have written, parsed within bounds.

What is bounded is what a parser makes of a file: its size, and how deep its values lie in one
another, since whatever walks them later does so by recursion.
"""

import json
from collections.abc import Iterable
from typing import Any

MOST_BYTES = 256 << 20  # of a JSON file: the manifest of a million shards fits
MOST_DEPTH = 64  # promptide's own files have about 10
TOO_DEEP = f"its values lie more than {MOST_DEPTH} deep in one another"


def parse_json(data: bytes | str, most_bytes: int = MOST_BYTES) -> Any:
    """The value of a JSON text.

    Raises ValueError for what is no JSON, longer than `most_bytes` or deeper than `MOST_DEPTH`.
    """
    require_size(len(data), most_bytes)
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    require_depth(value)
    return value


def require_size(size: int, most_bytes: int) -> None:
    """Raises ValueError for more than `most_bytes`."""
    if size > most_bytes:
        raise ValueError(f"it has {size} bytes, more than the {most_bytes} that are read")


def require_depth(value: Any) -> None:
    """Raises ValueError for lists and objects that lie more than `MOST_DEPTH` deep."""
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _inside(value: Any) -> Iterable[Any]:
    """The lists and objects directly in a value."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return ()
    return [inner for inner in value if isinstance(inner, dict | list)]

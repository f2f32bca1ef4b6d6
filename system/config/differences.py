"""Plain values of configs, and where two of them differ."""

from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Return the same with tuples as lists and keys as text, as YAML and JSON give them back."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def differences(old: Any, new: Any, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Return {dotted key: (old value, new value)} of two plain values; a missing one is None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in dict.fromkeys([*old, *new]):
            inner = f"{where}.{key}" if where else str(key)
            found |= differences(old.get(key), new.get(key), inner)
        return found
    return {} if old == new else {where: (old, new)}

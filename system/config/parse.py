"""From plain mappings to frozen dataclasses, with errors that name the field."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from system.errors import ConfigError

T = TypeVar("T")


def parse_dataclass(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build `cls` from a mapping; `where` is the config section for the messages.

    Nested dataclasses, tuples, Literals, `X | None`, `X | Y` and `X | tuple[X, ...]` are
    understood. Raises ConfigError for an unknown key (with the nearest one), a missing one, or a
    value of the wrong type; a ValueError of the class's own `__post_init__` comes out as
    ConfigError too.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {where}.{near[0]}?" if near else "."
            raise ConfigError(
                f"unknown key {where}.{key}{hint} Known: {', '.join(sorted(fields))}."
            )
    parsed = {}
    for name, field in fields.items():
        if name in values:
            parsed[name] = _convert(values[name], hints[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{name} is missing")
    try:
        return cls(**parsed)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert_to_one(
            value, [option for option in options if option is not type(None)], where
        )
    if origin is typing.Literal:
        if isinstance(value, bool) and str(value).lower() in typing.get_args(hint):
            return str(value).lower()  # a choice called "true", which YAML reads as a boolean
        if value not in typing.get_args(hint):
            known = ", ".join(str(choice) for choice in typing.get_args(hint))
            raise ConfigError(f"{where}={value!r} is not one of: {known}")
        return value
    if origin is tuple:
        (inner, *_) = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            key = where.removeprefix("config.")
            listed = "" if isinstance(value, Mapping) or value is None else f": {key}=[{value}]"
            raise ConfigError(f"{where}={value!r} must be a list{listed}")
        return tuple(_convert(item, inner, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}={value!r} must be a mapping")
        _, inner = typing.get_args(hint)
        return {str(key): _convert(item, inner, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}={value!r} must be a mapping")
        return parse_dataclass(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if value is None:
        raise ConfigError(f"{where} is not set; add {where.removeprefix('config.')}=VALUE")
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{where} is NaN; give it a number")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        scalar = isinstance(value, bool | int | float)
        remedy = "; a text is written in quotes" if hint is str and scalar else ""
        raise ConfigError(f"{where}={value!r} must be of type {hint.__name__}{remedy}")
    return value


def _convert_to_one(value: Any, options: list[Any], where: str) -> Any:
    """A list by the option that is one, anything else by the first other that it fits."""
    if len(options) == 1 or value is None:
        return _convert(value, options[0], where)
    listed = isinstance(value, list | tuple)
    refused: ConfigError | None = None
    for option in options:
        if (typing.get_origin(option) is tuple) == listed:
            try:
                return _convert(value, option, where)
            except ConfigError as error:
                refused = error
    if refused is not None:
        allowed = " or ".join(_named(option) for option in options)
        raise ConfigError(f"{refused}; {where} takes {allowed}") from refused
    allowed = " or ".join(_named(option) for option in options)
    raise ConfigError(f"{where}={value!r} must be {allowed}")


def _named(hint: Any) -> str:
    """The kinds of values that a field takes, in words."""
    if typing.get_origin(hint) is tuple:
        return f"a list of {typing.get_args(hint)[0].__name__}"
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(str(choice) for choice in typing.get_args(hint))
    return f"{'an' if hint.__name__[0] in 'aeiou' else 'a'} {hint.__name__}"

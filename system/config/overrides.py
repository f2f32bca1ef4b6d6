"""The user's `key=value` words, as Hydra is to read them: plain text is taken as it stands."""

import dataclasses
import re
import shlex
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: What Hydra reads as a text without quotes; `null`, `true`, `nan` and the like it does not.
_PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_][\w./-]*", re.ASCII | re.IGNORECASE)
_INTERPOLATION = re.compile(r"(\\*)\$\{")
_NO_TEXTS = (":int", ":float", ":bool", ":timestamp")  # YAML's tags
_CLOSING = {"[": "]", "{": "}", "(": ")"}


def override(key: str, value: Any) -> str:
    """`key=value` as Hydra reads it back, whatever characters its texts have."""
    return f"{key}={_written(value)}"


def readable(words: Sequence[str], schema: Mapping[str, Any]) -> list[str]:
    """Quote for Hydra what it could not read, or would read as something else than a text.

    `schema` has the types of dotted keys, as `typing.get_type_hints` gives them for a dataclass;
    those below a key follow from its type. At a key of text the value is one as it stands: digits,
    brackets, commas, letters of any script.
    What Hydra's grammar means stays: quoted texts, interpolations, `null`, and lists and mappings
    where the key takes one. Of other keys nothing is changed but what Hydra cannot read.
    """
    return [_readable(word, schema) for word in words]


def key_of(word: str) -> str:
    """The key of an override, without Hydra's `+`, `++` or `~` before it."""
    return word.partition("=")[0].lstrip("+~")


def texts_in(node: Any, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The scalars of a YAML file that YAML reads as something else, and the schema as a text.

    `node` is the file's, as `yaml.compose` gives it; for `schema` see `readable`. Yields each
    with its key, as written.
    """
    yield from _texts(node, None, "", schema)


def advice(word: str) -> str:
    """How to give the value of an override as a text, for a POSIX shell; empty if it is one."""
    key, _, value = word.partition("=")
    as_text = override(key, value)
    return "" if as_text == word else f"; if a text is meant, write {shlex.quote(as_text)}"


def _readable(word: str, schema: Mapping[str, Any]) -> str:
    key, equals, value = word.partition("=")
    if not equals or word.startswith("~"):
        return word
    hint, path = None, ""
    for part in key.lstrip("+").split("."):
        path = f"{path}.{part}" if path else part
        hint = schema.get(path, _inside(hint, part))
    return f"{key}={_read(value, hint)}"


def _texts(node: Any, hint: Any, key: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from yaml import MappingNode, ScalarNode, SequenceNode

    if isinstance(node, MappingNode):
        for name, inner in node.value:
            path = f"{key}.{name.value}" if key else str(name.value)
            yield from _texts(inner, schema.get(path, _inside(hint, name.value)), path, schema)
    elif isinstance(node, SequenceNode):
        for number, inner in enumerate(node.value):
            yield from _texts(inner, _item(hint), f"{key}[{number}]", schema)
    elif isinstance(node, ScalarNode) and node.tag.endswith(_NO_TEXTS) and str in _choices(hint):
        yield key, node.value


def _read(value: str, hint: Any) -> str:
    """A value as Hydra reads it where the schema has the type `hint`; None: any."""
    inside = value.strip()
    shape = inside[:1] + inside[-1:] if len(inside) > 1 else ""
    choices = _choices(hint)
    if str in choices and not (shape == "[]" and _item(hint) is not None):
        return _read_text(value)
    if not choices and _is_value(value):
        return value
    if shape in ("[]", "{}"):
        items = _items(inside[1:-1])
        if shape == "[]" and items is not None:
            return f"[{','.join(_read_item(item, _item(hint)) for item in items)}]"
        if items is not None and all(":" in item for item in items):
            pairs = [item.partition(":") for item in items]
            read = [
                f"{key}:{_read(rest.strip(), _inside(hint, key.strip()))}" for key, _, rest in pairs
            ]
            return f"{{{','.join(read)}}}"
    if inside[:1] in ("[", "{") or _is_value(value):
        return value
    return _quoted(value)


def _read_item(value: str, hint: Any) -> str:
    if value == "null" and _choices(hint) == (str,):  # a list has no item that is not set
        return _quoted(value)
    return _read(value, hint)


def _read_text(value: str) -> str:
    if value == "null" or _PLAIN.fullmatch(value) or _is_quoted(value):
        return value
    if "${" in value and _is_interpolation(value):
        return value if _is_value(value) else _quoted(value)
    return _quoted(_literal(value))


def _items(inside: str) -> list[str] | None:
    """What stands between the commas of a list or a mapping; None if it is empty or left open.

    Commas in quotes and in inner brackets are not its own. Parentheses are brackets only if they
    close: a text may have one alone.
    """
    for brackets in ("[{(", "[{"):
        items, start, opened, quote, begins = [], 0, "", "", True
        for place, letter in enumerate(inside):
            if quote:
                if letter == quote and not inside[:place].endswith("\\"):
                    quote = ""
            elif begins and letter in "\"'":
                quote = letter
            elif letter in brackets:
                opened += _CLOSING[letter]
            elif opened and letter == opened[-1]:
                opened = opened[:-1]
            elif letter == "," and not opened:
                items.append(inside[start:place].strip())
                start = place + 1
            begins = letter in "[{,:" or (begins and letter.isspace())
        if not opened and not quote:
            items.append(inside[start:].strip())
            break
    else:
        return None
    if items == [""]:
        return []
    return items if all(items) else None


def _choices(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows; none if any may come."""
    if hint is None or hint is Any:
        return ()
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _item(hint: Any) -> Any:
    """The type of a list's items; None if it is no list, or they may be any."""
    for choice in _choices(hint):
        if typing.get_origin(choice) is tuple:
            return typing.get_args(choice)[0]
    return None


def _inside(hint: Any, key: str) -> Any:
    """The type at a key of a mapping; None if there is none, or it may be any."""
    for choice in _choices(hint):
        if dataclasses.is_dataclass(choice) and isinstance(choice, type):
            return typing.get_type_hints(choice).get(key)
        if typing.get_origin(choice) is dict:
            return typing.get_args(choice)[1]
    return None


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else _quoted(_literal(value))
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, Mapping):  # Hydra's have no quoted keys
        return f"{{{','.join(f'{key}:{_written(inner)}' for key, inner in value.items())}}}"
    return str(value)


def _literal(text: str) -> str:
    """A text in which OmegaConf finds no interpolation."""
    return _INTERPOLATION.sub(lambda found: rf"{found[1] * 2}\${{", text)


def _quoted(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.double).with_quotes()


def _is_quoted(value: str) -> bool:
    from hydra.core.override_parser.types import QuotedString

    return value[:1] in ("'", '"') and isinstance(_parsed(value), QuotedString)


def _is_value(value: str) -> bool:
    """Whether Hydra reads it as one value, not as several to sweep over."""
    return _parsed(value) is not _UNREADABLE


def _is_interpolation(value: str) -> bool:
    from omegaconf.errors import OmegaConfBaseException
    from omegaconf.grammar_parser import parse

    try:
        parse(value)
    except OmegaConfBaseException:
        return False
    return True


_UNREADABLE = object()


def _parsed(value: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        found = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return _UNREADABLE
    return _UNREADABLE if found.is_sweep_override() else found._value

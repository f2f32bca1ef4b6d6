"""Where each value of a composed config comes from: a paper, its released code, us, or the user.

The files of configs/ tell it themselves: the comment beside a value begins with `paper` or
`release` if it is theirs. Everything else in them is ours.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from system.config.compose import CONFIG_DIRECTORY, composed_values, group_words
from system.config.overrides import key_of
from system.config.protocol import RELEASED, released_files

Kind = Literal["paper", "release", "ours", "given"]
_TAG = re.compile(r"(paper|release|ours)\b:?\s*(.*)")
_COMMENTS = re.compile(r"\s#\s")  # a second one on the line


_KINDS: Mapping[str, Kind] = {"paper": "paper", "release": "release", "ours": "ours"}


@dataclass(frozen=True)
class Source:
    """Where a value comes from: its kind, what its comment says, and the file and line."""

    kind: Kind
    note: str = ""
    place: str = ""  # relative to the folder of configs; empty for the user's own

    @classmethod
    def of_comment(cls, comment: str, place: str) -> "Source":
        """The source that a comment names, such as `# release: SGD`."""
        kind: Kind = "ours"
        notes = []
        for part in filter(None, (part.strip() for part in _COMMENTS.split(comment))):
            tag = _TAG.fullmatch(part)
            if tag:
                kind = _KINDS[tag[1]]
            notes.append(tag[2] if tag else part)
        return cls(kind, "; ".join(filter(None, notes)), place)


@dataclass(frozen=True)
class Sourced:
    """A value by its dotted key, and its source."""

    key: str
    value: Any
    source: Source


def sourced_values(overrides: Sequence[str], file: str | None = None) -> list[Sourced]:
    """All values of a command's config with their sources, in the order of the config.

    A resolved config's `file` is given as a whole. Raises ConfigError as `composed_values` does.
    """
    values = composed_values(overrides, file)
    given = Source("given")
    if file is not None:
        return [Sourced(key, value, given) for key, value in _leaves(values)]
    known: dict[str, Source] = {}
    for path, package in _files(overrides):
        known |= {_joined(package, key): source for key, source in _sources_in(path).items()}
    by_hand = [key for key in map(key_of, overrides) if not (CONFIG_DIRECTORY / key).is_dir()]
    released: dict[str, Source] = {}
    if values.get("protocol") == RELEASED:
        for path in released_files(values):
            released |= _sources_in(path)

    def source(key: str) -> Source:
        if key in released:
            return released[key]
        if any(key == one or key.startswith(f"{one}.") for one in by_hand):
            return given
        return known.get(key, Source("ours"))

    return [Sourced(key, value, source(key)) for key, value in _leaves(values)]


def _files(overrides: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """The files that Hydra composes, each with its place in the config; later ones win."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        words = group_words(overrides)
        for one in loader.compute_defaults_list("config", words, RunMode.RUN).defaults:
            path = CONFIG_DIRECTORY / f"{one.config_path}.yaml"
            if path.exists():
                yield path, one.package or ""


def _sources_in(path: Path) -> dict[str, Source]:
    """The source of each value in a YAML file, by its dotted key."""
    from yaml import SafeLoader
    from yaml import compose as yaml_nodes

    text = path.read_text("utf-8")
    lines, place = text.splitlines(), path.relative_to(CONFIG_DIRECTORY)
    found: dict[str, Source] = {}
    for key, line, column in _places(yaml_nodes(text, Loader=SafeLoader), ""):
        comment = lines[line][column:].partition("#")[2]
        found[key] = Source.of_comment(comment, f"{place}:{line + 1}")
    return found


def _places(node: Any, key: str) -> Iterator[tuple[str, int, int]]:
    """The key of each value below a node, and the line and column where the value ends."""
    from yaml import MappingNode

    if isinstance(node, MappingNode) and node.value:
        for name, inner in node.value:
            yield from _places(inner, _joined(key, name.value))
    elif key:
        yield key, node.end_mark.line, node.end_mark.column


def _leaves(section: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        key = _joined(before, name)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, key)
        else:
            yield key, value


def _joined(package: str, key: str) -> str:
    return f"{package}.{key}" if package else key

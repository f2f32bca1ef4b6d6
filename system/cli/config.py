"""`promptide config`: all values of a command's config, each with where it comes from."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from system.config.sources import Sourced, sourced_values

_COLUMN = 44  # of the comments
_STYLES = {"paper": "cyan", "release": "green", "given": "bold magenta", "ours": "dim"}


def config(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Print the config as YAML; the comment beside a value names its source.

    That is the paper, the released code, the user (given) or us; and the file and line.
    """
    for line in config_lines(sourced_values(overrides, file)):
        console.print(line, highlight=False, soft_wrap=True)


def config_lines(values: Sequence[Sourced]) -> list[Text]:
    """The lines of the config, which `--config` reads again as a file."""
    lines: list[Text] = []
    before: list[str] = []
    for one in values:
        *sections, name = one.key.split(".")
        same = 0
        while same < min(len(sections), len(before)) and sections[same] == before[same]:
            same += 1
        for depth in range(same, len(sections)):
            lines.append(Text(f"{'  ' * depth}{sections[depth]}:"))
        before = sections
        source = one.source
        said = ": ".join(filter(None, (source.kind, source.note)))
        place = f" ({source.place})" if source.place else ""
        value = f"{'  ' * len(sections)}{name}: {_written(one.value)}"
        line = Text(f"{value:<{_COLUMN}}")
        lines.append(line.append(f"  # {said}{place}", style=_STYLES[source.kind]))
    return lines


def _written(value: Any) -> str:
    """A value in one line of YAML."""
    from yaml import safe_dump

    text: str = safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("...\n").strip()

"""`promptide parameters`: what each method trains at the published sizes."""

from collections.abc import Sequence

from rich.console import Console

from tuning.report.parameters import count_all
from tuning.report.sweep_terminal import print_parameters


def parameters(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Count and print the trainable parameters of all methods."""
    print_parameters(count_all(overrides, file), console)

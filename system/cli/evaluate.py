"""`promptide evaluate`: a run's adapters again, without training."""

from collections.abc import Sequence

from rich.console import Console

from system.config.compose import compose
from system.report.terminal.tables import print_evaluation
from system.stream.evaluate_adapters import evaluate_adapters
from system.stream.preflight import prepared


def evaluate(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Evaluate saved adapters on the test splits."""
    experiment = compose(overrides, file)
    print_evaluation(evaluate_adapters(experiment, prepared(experiment)), console)

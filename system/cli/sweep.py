"""`promptide sweep`: runs as trials on Ray Tune."""

from collections.abc import Sequence

from rich.console import Console

from tuning.report.sweep_terminal import print_outcome
from tuning.run.sweep import run_sweep
from tuning.search.sweep_plan import SweepPlan


def sweep(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Run many experiments and compare them, or go on with a sweep that was interrupted."""
    outcome = run_sweep(SweepPlan.compose(overrides, file), console)
    print_outcome(outcome, console)
    outcome.require_success()

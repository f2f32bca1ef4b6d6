"""`promptide sweep`: runs as trials on Ray Tune."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from actors.starting import check_address
from system.cli.prepared_experiment import on_prepared
from system.config.compose import given_options
from tuning.report.sweep_terminal import print_outcome
from tuning.run.sweep import run_sweep
from tuning.search.sweep_plan import SweepPlan


def sweep(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Run many experiments and compare them, or go on with a sweep that was interrupted."""
    plan = SweepPlan.compose(overrides, file)
    check_address(plan.experiment.cluster.address)
    prepared = on_prepared(plan.experiment, given_options(overrides, file), console)
    outcome = run_sweep(replace(plan, experiment=prepared), console)
    print_outcome(outcome, console)
    outcome.require_success()

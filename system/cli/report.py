"""`promptide report`: one HTML page from a run, a trained model or a sweep."""

from collections.abc import Sequence

from rich.console import Console

from system.cli.experiments import experiment_from
from system.cli.prepared_experiment import with_prepared_options
from system.config.compose import given_options
from system.engine.model_stage import ModelExperiment, stage_of
from system.errors import ConfigError
from system.report.pages.run_page import write_report
from system.storage.run_directory import RunDirectory
from tuning.report.sweep_page import is_sweep, write_sweep_page


def report(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Write the page of a sweep, or of what was learned."""
    experiment = experiment_from(overrides, file)
    folder = RunDirectory.of(experiment).folder
    if is_sweep(folder):
        console.print(f"report: {write_sweep_page(folder)}", soft_wrap=True)
    elif isinstance(experiment, ModelExperiment):
        given = given_options(overrides, file)
        report_model(with_prepared_options(experiment, given), console)
    else:
        console.print(f"report: {write_report(folder.uri)}", soft_wrap=True)


def report_model(experiment: ModelExperiment, console: Console) -> None:
    """Write the page of a model that is trained."""
    stage = stage_of(experiment)
    if not stage.finished(experiment):
        raise ConfigError(
            f"the model of run {experiment.run_name!r} is not trained yet; train it with "
            "`promptide run` and the same overrides"
        )
    stage.report(experiment, lambda line: console.print(line, highlight=False, soft_wrap=True))

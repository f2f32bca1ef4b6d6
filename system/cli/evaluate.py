"""`promptide evaluate`: a run's adapters again, on its benchmark or another, without training."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from system.cli.prepared_experiment import prepared_experiment
from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from system.report.terminal.tables import print_evaluation
from system.storage.data_directory import DataDirectory
from system.stream.evaluate_adapters import evaluate_adapters
from system.stream.preflight import prepared


def evaluate(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Evaluate saved adapters on the splits of evaluation.split, each a table."""
    experiment = prepared_experiment(overrides, file, console)
    if not isinstance(experiment, ExperimentConfig):
        raise ConfigError(
            "a model's stage has no adapters to evaluate; its metrics are in its run directory"
        )
    DataDirectory.of(experiment).probe()  # features go there
    manifest = prepared(experiment)
    for split in experiment.evaluation.splits:
        evaluation = replace(experiment.evaluation, split=split)
        matrix = evaluate_adapters(replace(experiment, evaluation=evaluation), manifest)
        print_evaluation(matrix, console, f"{experiment.benchmark.name}, split {split}")

"""`promptide evaluate`: a run's adapters or the frozen model on a benchmark, without training."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from system.cli.prepared_experiment import prepared_experiment
from system.config.schema import ExperimentConfig
from system.errors import ConfigError
from system.report.pages.evaluation_page import write_evaluation_report
from system.report.terminal.step_progress import ModelProgress
from system.report.terminal.tables import print_evaluation, print_split_recalls
from system.storage.data_directory import DataDirectory
from system.storage.files import Folder
from system.stream.evaluate_adapters import evaluated_on
from system.stream.evaluation_results import write_evaluation
from system.stream.preflight import prepared


def evaluate(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Evaluate on the splits of evaluation.split; tables, metrics.json and a page come of it.

    A method that trains nothing needs no run: what is evaluated is the frozen model.
    """
    experiment = prepared_experiment(overrides, file, console)
    if not isinstance(experiment, ExperimentConfig):
        raise ConfigError(
            "a model's stage has no adapters to evaluate; its metrics are in its run directory"
        )
    DataDirectory.of(experiment).probe()  # features go there
    Folder.of(experiment.storage_path).probe()
    manifest = prepared(experiment)
    splits = experiment.evaluation.splits
    # Of boxes one evaluation judges all splits.
    together = experiment.stage.objective == "grounding"
    for one in (splits,) if together else [(split,) for split in splits]:
        evaluation = replace(experiment.evaluation, split=one if len(one) > 1 else one[0])
        with ModelProgress(console) as progress:
            found = evaluated_on(
                replace(experiment, evaluation=evaluation), manifest, progress.show
            )
            folder, metrics = write_evaluation(found)
        for line in found.notes:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        print_evaluation(found.matrix, console, f"{experiment.benchmark.name}, split {one[0]}")
        print_split_recalls(metrics, console)
        console.print(f"evaluation: {folder.uri}", soft_wrap=True)
        console.print(f"report: {write_evaluation_report(folder)}", soft_wrap=True)

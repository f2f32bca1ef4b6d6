"""`promptide prepare`: write a benchmark's task shards."""

from collections.abc import Sequence

from rich.console import Console

from system.cli.experiments import experiment_from
from system.config.schema import ExperimentConfig
from system.data.prepare.dataset import DATASETS
from system.data.shards.faults import QUARANTINE_NAME
from system.engine.model_stage import ModelExperiment
from system.report.terminal.step_progress import PrepareProgress
from system.storage.data_directory import DataDirectory


def prepare(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Write the task shards of a stream's benchmark or a model's."""
    prepare_benchmark(experiment_from(overrides, file), console)


def prepare_benchmark(experiment: ExperimentConfig | ModelExperiment, console: Console) -> None:
    """Write the task shards of a benchmark; what is there already is not made again."""
    benchmark = experiment.benchmark
    folder = DataDirectory.of(experiment).benchmark(benchmark.name)
    folder.probe()
    with PrepareProgress(console) as progress:
        manifest = DATASETS.get(benchmark.dataset)(
            benchmark.name, folder.uri, benchmark.options, progress.update
        )
        progress.finish(
            manifest.counts,
            manifest.skipped,
            manifest.quarantined,
            manifest.unoriented,
            manifest.in_two_splits,
        )
    if manifest.quarantined:
        console.print(f"broken rows: {folder.file_uri(QUARANTINE_NAME)}", soft_wrap=True)
    console.print(f"task shards: {folder.uri}")

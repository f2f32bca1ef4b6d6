"""`promptide prepare`: write a benchmark's task shards."""

from collections.abc import Sequence

from rich.console import Console

from system.cli.experiments import experiment_from
from system.config.schema import BaseExperiment, BenchmarkConfig
from system.data.prepare.dataset import DATASETS
from system.data.prepare.origin import prepared_at, require_origin, require_root
from system.data.shards.faults import QUARANTINE_NAME
from system.errors import StorageError
from system.report.terminal.step_progress import PrepareProgress
from system.storage.data_directory import DataDirectory
from system.storage.files import Folder
from system.storage.writer_lock import sole_writer

REPLACE = "--replace"


def prepare(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Write the task shards of a stream's benchmark or a model's."""
    words = [word for word in overrides if word != REPLACE]
    prepare_benchmark(experiment_from(words, file), console, replace=REPLACE in overrides)


def _there_for_good(benchmark: BenchmarkConfig, folder: Folder) -> bool:
    """Whether the benchmark is prepared, from the same options, where this user cannot write.

    Then its raw files need not be here either. Raises ConfigError for other options.
    """
    found = prepared_at(folder)
    if found is None:
        return False
    try:
        folder.probe()
    except StorageError:
        require_origin(found, benchmark.dataset, benchmark.options, folder.uri)
        return True
    return False


def prepare_benchmark(
    experiment: BaseExperiment, console: Console, *, replace: bool = False
) -> None:
    """Write the task shards of a benchmark; what is there already is not made again.

    Another process that prepares it is waited for. What was prepared from another source is only
    written over with `replace`. Raises what the dataset's preparer raises.
    """
    benchmark = experiment.benchmark
    folder = DataDirectory.of(experiment).benchmark(benchmark.name)
    if not replace and _there_for_good(benchmark, folder):
        line = f"prepared, and nothing can be written here: {folder.uri}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        return
    require_root(benchmark.name, benchmark.options, folder.uri)
    preparer = DATASETS.get(benchmark.dataset)

    def waiting(who: str) -> None:
        line = f"waiting for {who}, which prepares the same benchmark: {folder.uri}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    folder.probe()
    with sole_writer(folder, waiting=waiting), PrepareProgress(console) as progress:
        manifest = preparer(
            benchmark.name, folder.uri, benchmark.options, progress.update, replace=replace
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
    for split, count in manifest.lost_words.items():
        line = (
            f"{split}: cleaning left nothing of some positive words of {count:,} expressions; "
            "where it left none, all words name the object"
        )
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"task shards: {folder.uri}", soft_wrap=True)

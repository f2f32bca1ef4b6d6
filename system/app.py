"""The command line: the one module that joins system, actors and tuning."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from system.errors import ConfigError, PromptideError

if TYPE_CHECKING:
    from system.config import ExperimentConfig

USAGE = """promptide COMMAND [key=value ...]

  prepare    write a benchmark's task shards          promptide prepare benchmark=openmoji
  pretrain   make a small backbone                    promptide pretrain backbone=tiny_clip
  run        learn a stream of tasks on Ray           promptide run experiment=demo
  evaluate   a run's adapters again, no training      promptide evaluate experiment=demo
  report     one HTML page from a run                 promptide report experiment=demo

Every command takes Hydra overrides: promptide run seed=1 method.rank=8 cluster.workers=4
The groups and their options are the folders and files under configs/."""

Command = Callable[["ExperimentConfig", Console], None]


def prepare(experiment: "ExperimentConfig", console: Console) -> None:
    """Write the task shards of a benchmark; what is there already is not made again."""
    from system.data.datasets import DATASETS
    from system.data.faults import QUARANTINE_NAME
    from system.report.terminal import PrepareProgress

    benchmark = experiment.benchmark
    folder = experiment.benchmark_folder()
    folder.probe()
    with PrepareProgress(console) as progress:
        manifest = DATASETS.get(benchmark.dataset)(
            benchmark.name, folder.uri, benchmark.options, progress.update
        )
        progress.finish(manifest.counts, manifest.skipped, manifest.quarantined)
    if manifest.quarantined:
        console.print(f"broken rows: {folder.file_uri(QUARANTINE_NAME)}", soft_wrap=True)
    console.print(f"task shards: {folder.uri}")


def pretrain(experiment: "ExperimentConfig", console: Console) -> None:
    """Make a small backbone where `backbone.path` points to."""
    from system.backbones.pretrain import PretrainConfig, pretrain
    from system.parsing import parse_dataclass
    from system.report.terminal import PretrainProgress

    section = experiment.backbone.pretrain
    if section is None:
        raise ConfigError(
            f"backbone {experiment.backbone.name!r} cannot be made here: its config has no "
            "pretrain section; choose backbone=tiny_clip"
        )
    config = parse_dataclass(PretrainConfig, section, "backbone.pretrain")
    with PretrainProgress(console) as progress:
        pretrain(config, Path(experiment.backbone.resolved_path()), progress.update)
    console.print(f"backbone: {experiment.backbone.path}")


def run(experiment: "ExperimentConfig", console: Console) -> None:
    """Learn a stream of tasks, or go on with a run that was interrupted."""
    from actors.cluster import check_resources, check_storage, ray_cluster
    from actors.stream_run import run_stream
    from system.preflight import check_experiment
    from system.report.page import write_report
    from system.report.terminal import StreamProgress, print_final_table
    from system.storage.results import finish_run
    from system.storage.run_directory import RunDirectory

    started = time.perf_counter()
    directory = RunDirectory.of(experiment)
    checked = check_experiment(experiment)
    again = directory.claim(experiment)
    console.print(f"{'going on with' if again else 'run'} {directory.folder.uri}")
    with ray_cluster(experiment.cluster):
        check_resources(experiment.cluster)
        check_storage(experiment.storage_path)
        ready = time.perf_counter()
        with StreamProgress(console) as progress:
            stream = run_stream(experiment, checked.manifest, checked.tasks, progress.update)
        ended = time.perf_counter()
        committed = stream.committed(experiment.run_name)
        access_log = stream.access_log()
        stream.stop()
    metrics, matrix = finish_run(
        experiment,
        checked.manifest.fingerprint,
        checked.tasks,
        committed,
        access_log,
        {"start": ready - started, "stream": ended - ready},
    )
    page = write_report(directory.folder.uri)
    print_final_table(metrics, matrix, console)
    console.print(f"run directory: {directory.folder.uri}")
    console.print(f"report: {page}")


def report(experiment: "ExperimentConfig", console: Console) -> None:
    """Write the HTML page of a run."""
    from system.report.page import write_report
    from system.storage.run_directory import RunDirectory

    console.print(f"report: {write_report(RunDirectory.of(experiment).folder.uri)}")


def evaluate(experiment: "ExperimentConfig", console: Console) -> None:
    """Evaluate saved adapters on the test splits, without training."""
    from system.preflight import prepared
    from system.report.evaluation_table import print_evaluation
    from system.stages.evaluate_adapters import evaluate_adapters

    print_evaluation(evaluate_adapters(experiment, prepared(experiment)), console)


COMMANDS: dict[str, Command] = {
    "prepare": prepare,
    "pretrain": pretrain,
    "run": run,
    "evaluate": evaluate,
    "report": report,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `promptide`. Returns 0, 2 for a user's error, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console, errors = Console(), Console(stderr=True)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        console.print(USAGE, highlight=False, markup=False)
        return 0 if arguments else 2
    try:
        if arguments[0] not in COMMANDS:
            raise ConfigError(f"unknown command {arguments[0]!r}; one of: {', '.join(COMMANDS)}")
        from system.config import compose

        COMMANDS[arguments[0]](compose(arguments[1:]), console)
    except PromptideError as error:
        errors.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from here", markup=False)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

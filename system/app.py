"""The command line: the one module that joins system, actors and tuning."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from system.errors import ConfigError, PromptideError
from system.storage.data_directory import DataDirectory
from system.submission.job_environment import hear_stop, unseal

if TYPE_CHECKING:
    from system.config.schema import ExperimentConfig
    from system.engine.model_stage import ModelExperiment

USAGE = """promptide COMMAND [key=value ...]

  prepare    write a benchmark's task shards          promptide prepare benchmark=openmoji
  pretrain   make a small backbone or grounder        promptide pretrain grounder=tiny_grounder
  run        learn a stream of tasks on Ray           promptide run experiment=demo
  evaluate   a run's adapters again, no training      promptide evaluate experiment=demo
  report     one HTML page from a run or a sweep      promptide report experiment=demo
  stream     tasks of a run as it goes on             promptide stream append run_name=demo food
  sweep      runs as trials on Ray Tune               promptide sweep experiment=compare
  parameters what each method trains, at ViT-B/16     promptide parameters
  submit     any of these as a job on a cluster       promptide submit run submit=ray_address

Every command takes Hydra overrides: promptide run seed=1 method.rank=8 cluster.workers=4
and, to start from a resolved config, a file: promptide run --config runs/compare/best.yaml
The groups and their options are the folders and files under configs/."""

Command = Callable[["ExperimentConfig", Console], None]
WideCommand = Callable[[Sequence[str], str | None, Console], None]  # overrides, config file


def prepare(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Write the task shards of a stream's benchmark or a model's."""
    prepare_benchmark(_experiment(overrides, file), console)


def prepare_benchmark(experiment: "ExperimentConfig | ModelExperiment", console: Console) -> None:
    """Write the task shards of a benchmark; what is there already is not made again."""
    from system.data.prepare.dataset import DATASETS
    from system.data.shards.faults import QUARANTINE_NAME
    from system.report.terminal.step_progress import PrepareProgress

    benchmark = experiment.benchmark
    folder = DataDirectory.of(experiment).benchmark(experiment.benchmark.name)
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
    """Make a small backbone, or the grounder if one is chosen, where its path points to."""
    from system.backbones.dual_encoder import resolved
    from system.backbones.pretrain_clip import PretrainConfig, pretrain
    from system.config.parse import parse_dataclass
    from system.grounders.pretrain_grounder import GrounderPretrainConfig, pretrain_grounder
    from system.report.terminal.step_progress import PretrainProgress

    chosen = experiment.grounder or experiment.backbone
    kind = "backbone" if experiment.grounder is None else "grounder"
    if chosen.pretrain is None:
        raise ConfigError(
            f"{kind} {chosen.name!r} cannot be made here: its config has no pretrain section; "
            "choose backbone=tiny_clip or grounder=tiny_grounder"
        )
    where, directory = f"{kind}.pretrain", Path(resolved(chosen.path))
    with PretrainProgress(console) as progress:
        if experiment.grounder is None:
            config = parse_dataclass(PretrainConfig, chosen.pretrain, where)
            pretrain(config, directory, progress.update)
        else:
            recipe = parse_dataclass(GrounderPretrainConfig, chosen.pretrain, where)
            pretrain_grounder(recipe, directory, progress.update)
    console.print(f"{kind}: {chosen.path}")


def run(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Learn a stream of tasks or train a model, or go on with a run that was interrupted."""
    from system.engine.model_stage import ModelExperiment

    experiment = _experiment(overrides, file)
    if isinstance(experiment, ModelExperiment):
        train_model(experiment, console)
    else:
        learn_stream(experiment, console)


def _experiment(overrides: Sequence[str], file: str | None) -> "ExperimentConfig | ModelExperiment":
    """The experiment of a command, of a stream or of a model."""
    from system.config.compose import composed_values, experiment_of
    from system.engine.model_stage import model_experiment

    values = composed_values(overrides, file)
    # a model's stage has a name, the stream's has none
    return model_experiment(values) if "name" in values["stage"] else experiment_of(values)


def learn_stream(experiment: "ExperimentConfig", console: Console) -> None:
    """Learn a stream of tasks."""
    from actors.cluster import check_resources, check_storage, ray_cluster
    from actors.live import reachable
    from actors.stream_driver import run_stream
    from system.loggers.run_loggers import RunLoggers
    from system.objectives.objective import OBJECTIVES
    from system.report.pages.run_page import write_report
    from system.report.terminal.stream_progress import StreamProgress
    from system.report.terminal.tables import print_final_table
    from system.storage.run_directory import RunDirectory
    from system.storage.writer_lock import sole_writer
    from system.stream.preflight import check_experiment
    from system.stream.run_results import finish_run, write_so_far

    started = time.perf_counter()
    directory = RunDirectory.of(experiment)
    checked = check_experiment(experiment)
    with sole_writer(directory.folder), ExitStack() as opened:
        again = directory.claim(experiment)
        console.print(f"{'going on with' if again else 'run'} {directory.folder.uri}")
        for earlier in OBJECTIVES.get(experiment.stage.objective).before(experiment):
            train_model(earlier, console)
        # not before: W&B ends all logs of a process with the first
        loggers = opened.enter_context(RunLoggers(experiment))
        with ray_cluster(experiment.cluster):
            check_resources(experiment.cluster)
            check_storage(experiment.storage_path)
            ready = time.perf_counter()

            def learned(committed: Sequence[Mapping[str, Any]]) -> None:
                loggers.learned(committed)
                if experiment.stream.live:
                    write_so_far(experiment, committed)

            with StreamProgress(console) as progress, reachable(directory.folder):
                left = run_stream(
                    experiment, checked.manifest, checked.tasks, progress.update, learned
                )
            ended = time.perf_counter()
        if not left.committed:
            raise ConfigError("the stream was closed without a task; start another run_name")
        metrics, matrix = finish_run(
            experiment,
            checked.manifest.fingerprint,
            left.tasks,
            left.committed,
            left.access_log,
            {"start": ready - started, "stream": ended - ready},
            left.quarantined,
        )
        loggers.final(metrics)
        page = write_report(directory.folder.uri)
        print_final_table(metrics, matrix, console)
        console.print(f"run directory: {directory.folder.uri}")
        console.print(f"report: {page}")


def train_model(experiment: "ModelExperiment", console: Console) -> None:
    """Train a stage's model and those it builds on, but none that is there already."""
    from actors.cluster import check_resources, check_storage, ray_cluster
    from actors.model_driver import run_model
    from system.engine.model_making import sole_maker
    from system.engine.model_stage import stage_of
    from system.loggers.model_loggers import ModelLoggers
    from system.loggers.open_loggers import check_loggers
    from system.report.terminal.step_progress import ModelProgress
    from system.storage.run_directory import METRICS, RunDirectory
    from system.storage.writer_lock import sole_writer

    stage = stage_of(experiment)
    directory = RunDirectory.of(experiment)

    def tell(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    check_loggers(experiment)
    finished = stage.finished(experiment)
    with sole_writer(directory.folder), ExitStack() as opened:
        again = directory.claim(experiment)
        console.print(f"{'going on with' if again else 'run'} {directory.folder.uri}")
        for earlier in () if finished else stage.before(experiment):
            train_model(earlier, console)
        # not before: W&B ends all logs of a process with the first
        loggers = opened.enter_context(ModelLoggers(experiment, stage.logged))
        if not finished:
            with sole_maker(experiment, stage, tell) as finished:
                if not finished:
                    with ray_cluster(experiment.cluster):
                        check_resources(experiment.cluster)
                        check_storage(experiment.storage_path)
                        with ModelProgress(console) as progress:
                            run_model(experiment, stage, progress.show, loggers.trained)
        if finished:
            tell("the model is there already, made from the same settings and data")
        stage.report(experiment, tell)
        loggers.final(directory.folder.read_json(METRICS))


def report(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Write the HTML page of a run, a trained model or a sweep."""
    from system.engine.model_stage import ModelExperiment
    from system.report.pages.run_page import write_report
    from system.storage.run_directory import RunDirectory
    from tuning.report.sweep_page import is_sweep, write_sweep_page

    experiment = _experiment(overrides, file)
    folder = RunDirectory.of(experiment).folder
    if isinstance(experiment, ModelExperiment) and not is_sweep(folder):
        report_model(experiment, console)
        return
    page = write_sweep_page(folder) if is_sweep(folder) else write_report(folder.uri)
    console.print(f"report: {page}")


def report_model(experiment: "ModelExperiment", console: Console) -> None:
    """Write the page of a model that is trained."""
    from system.engine.model_stage import stage_of

    stage = stage_of(experiment)
    if not stage.finished(experiment):
        raise ConfigError(
            f"the model of run {experiment.run_name!r} is not trained yet; train it with "
            "`promptide run` and the same overrides"
        )
    stage.report(experiment, lambda line: console.print(line, highlight=False, soft_wrap=True))


def evaluate(experiment: "ExperimentConfig", console: Console) -> None:
    """Evaluate saved adapters on the test splits, without training."""
    from system.report.terminal.tables import print_evaluation
    from system.stream.evaluate_adapters import evaluate_adapters
    from system.stream.preflight import prepared

    print_evaluation(evaluate_adapters(experiment, prepared(experiment)), console)


def sweep(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Run many experiments and compare them, or go on with a sweep that was interrupted."""
    from tuning.report.sweep_terminal import print_outcome
    from tuning.run.sweep import run_sweep
    from tuning.search.sweep_plan import SweepPlan

    outcome = run_sweep(SweepPlan.compose(overrides, file), console)
    print_outcome(outcome, console)
    outcome.require_success()


def stream(arguments: Sequence[str], file: str | None, console: Console) -> None:
    """Append tasks to a live stream, close it, or show where a run's stream stands."""
    from actors.stream_command import stream_command

    stream_command(arguments, file, console)


def parameters(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """What each method trains at the published sizes."""
    from tuning.report.parameters import count_all
    from tuning.report.sweep_terminal import print_parameters

    print_parameters(count_all(overrides, file), console)


def submit(arguments: Sequence[str], file: str | None, console: Console) -> None:
    """Send any other command to a cluster, or look after one that was sent."""
    from system.submission.session import submit

    commands = [name for name in (*COMMANDS, *WIDE_COMMANDS) if name != "submit"]
    submit(arguments, file, commands, console)


COMMANDS: dict[str, Command] = {
    "pretrain": pretrain,
    "evaluate": evaluate,
}
#: Commands whose overrides may say more than one experiment, or one of another kind.
WIDE_COMMANDS: dict[str, WideCommand] = {
    "prepare": prepare,
    "run": run,
    "report": report,
    "stream": stream,
    "sweep": sweep,
    "parameters": parameters,
    "submit": submit,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `promptide`. Returns 0, 2 for a user's error, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console, errors = Console(), Console(stderr=True)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        console.print(USAGE, highlight=False, markup=False)
        return 0 if arguments else 2
    try:
        hear_stop()
        unseal()  # what a job was sent with
        _run_command(arguments[0], arguments[1:], console)
    except PromptideError as error:
        errors.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from here", markup=False)
        return 130
    return 0


def _run_command(name: str, arguments: Sequence[str], console: Console) -> None:
    if name not in COMMANDS and name not in WIDE_COMMANDS:
        known = ", ".join((*COMMANDS, *WIDE_COMMANDS))
        raise ConfigError(f"unknown command {name!r}; one of: {known}")
    from system.config.compose import compose

    overrides, file = _split_config_file(arguments)
    if name in WIDE_COMMANDS:
        WIDE_COMMANDS[name](overrides, file, console)
    else:
        COMMANDS[name](compose(overrides, file), console)


def _split_config_file(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The overrides, and what stands behind `--config`."""
    overrides: list[str] = []
    file: str | None = None
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option != "--config":
            overrides.append(argument)
            continue
        file = value if equals else next(rest, None)
        if not file:
            raise ConfigError("--config needs a file, such as --config runs/compare/best.yaml")
    return overrides, file


if __name__ == "__main__":
    sys.exit(main())

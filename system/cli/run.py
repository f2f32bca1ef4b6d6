"""`promptide run`: learn a stream of tasks or train a model, or go on with it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from actors.cluster import check_places, check_resources, ray_cluster
from actors.drive import Place, Run, complete
from actors.model_run import ModelRun
from actors.starting import check_address
from actors.stream_run import StreamRun
from system.cli.experiments import experiment_from
from system.cli.prepared_experiment import on_prepared
from system.config.compose import given_options
from system.config.schema import ExperimentConfig
from system.engine.contents import contents_of
from system.engine.model_stage import ModelExperiment
from system.storage.data_directory import DataDirectory
from system.storage.run_directory import METRICS
from system.storage.writer_lock import require_unwritten, sole_writer


def run(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Carry out a run, or go on with one that was interrupted."""
    experiment = experiment_from(overrides, file)
    check_address(experiment.cluster.address)
    carry_out(on_prepared(experiment, given_options(overrides, file), console), console)


def carry_out(experiment: ExperimentConfig | ModelExperiment, console: Console) -> None:
    """Learn a stream or train a model, and before it the models that it builds on."""
    if isinstance(experiment, ExperimentConfig):
        _carry_out(StreamRun(experiment), console)
    else:
        _carry_out(ModelRun(experiment), console)


def _carry_out(run: Run, console: Console) -> None:
    folder = run.directory.folder
    require_unwritten(folder)
    run.check()
    with sole_writer(folder):
        again = run.directory.claim(run.experiment, contents_of(run.experiment))
        console.print(f"{'going on with' if again else 'run'} {folder.uri}", soft_wrap=True)
        for line in run.notes:
            console.print(line, highlight=False, soft_wrap=True)
        if not (run.finished or folder.exists(METRICS)):
            DataDirectory.of(run.experiment).probe()  # features, latents and models go there
        for earlier in () if run.finished else run.before():
            _carry_out(earlier, console)
        complete(run, Place(console, lambda: _cluster(run)))
        run.report(console)


@contextmanager
def _cluster(run: Run) -> Iterator[None]:
    """Connect Ray, and check that it has what the run needs."""
    with ray_cluster(run.experiment.cluster):
        check_resources(run.experiment.cluster)
        check_places(run.experiment)
        yield

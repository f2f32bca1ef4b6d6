"""The experiment of a command's words, on the benchmark as it was prepared."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from rich.console import Console

from system.cli.experiments import experiment_from
from system.cli.prepare import prepare_benchmark
from system.config.compose import given_options
from system.config.schema import BaseExperiment, ExperimentConfig
from system.data.prepare.origin import ROOT, Origin, prepared_at
from system.engine.model_stage import ModelExperiment
from system.storage.data_directory import DataDirectory

E = TypeVar("E", bound=BaseExperiment)


def prepared_experiment(
    overrides: Sequence[str], file: str | None, console: Console
) -> ExperimentConfig | ModelExperiment:
    """The experiment of a command's words; see `on_prepared`."""
    experiment = experiment_from(overrides, file)
    return on_prepared(experiment, given_options(overrides, file), console)


def on_prepared(experiment: E, given: Collection[str], console: Console) -> E:
    """The same on its benchmark as it was prepared; that is done first, if it is not yet.

    `given` are the options, or prefixes of them, that somebody wrote; the others are those that the
    benchmark was prepared with. Raises ConfigError for a given one that differs, and what preparing
    raises.
    """
    folder = DataDirectory.of(experiment).benchmark(experiment.benchmark.name)
    if prepared_at(folder) is None:
        _tell(console, f"benchmark {experiment.benchmark.name!r} is not prepared yet: preparing it")
        prepare_benchmark(experiment, console)
    found = with_prepared_options(experiment, given)
    root = Origin.of("", experiment.benchmark.options).options.get(ROOT)
    if root is None or found.benchmark.options.get(ROOT) == root:
        return found
    # Another place of the same data, or other data: preparing finds out.
    before = found.benchmark.options.get(ROOT)
    _tell(console, f"comparing the files in {root} with those prepared from {before}")
    options = {**found.benchmark.options, ROOT: root}
    moved = replace(found, benchmark=replace(found.benchmark, options=options))
    prepare_benchmark(moved, console)
    return moved


def with_prepared_options(experiment: E, given: Collection[str]) -> E:
    """The same with the options that its benchmark was prepared with, if it is.

    A root that was given may be another one. Raises ConfigError with both values and the ways out.
    """
    benchmark = experiment.benchmark
    folder = DataDirectory.of(experiment).benchmark(benchmark.name)
    manifest = prepared_at(folder)
    if manifest is None:
        return experiment
    recorded = Origin.recorded(manifest)  # of an earlier version it is compared alone
    mine = Origin.of(benchmark.dataset, benchmark.options)
    mine.require_same(recorded, benchmark.name, folder.uri, given)
    known = recorded.options if recorded.whole else {}
    options = {**mine.options, **known}
    return replace(experiment, benchmark=replace(benchmark, options=options))


def _tell(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)

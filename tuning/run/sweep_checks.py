"""Checks of a whole sweep before its first trial starts."""

from collections.abc import Sequence

from system.errors import ConfigError, PromptideError
from system.methods.base import METHODS
from system.storage.run_directory import CONFIG
from tuning.run.trial_kind import kind_of
from tuning.search.population import rungs
from tuning.search.proposals import require_optuna
from tuning.search.sweep_config import DEFAULT
from tuning.search.sweep_plan import Setting, SweepPlan, at_point

MOST_CHECKED = 64  # settings whose backbone and method are built; all of them are composed
SAMPLED = 8  # points of a space that Optuna will fill, drawn to be checked


def check_sweep(plan: SweepPlan) -> tuple[str, ...]:
    """Check every setting as a run checks its own; of those that will be proposed, some.

    Returns the tasks of the first one: all trials of a sweep have the same number of them. Raises
    ConfigError when the sweep's directory is that of a run, or the error of the setting that is
    wrong with its name.
    """
    if plan.folder.exists(CONFIG):
        raise ConfigError(
            f"run_name={plan.experiment.run_name!r} is a run in {plan.experiment.storage_path}; "
            "give the sweep another run_name"
        )
    config = plan.config
    _check_rates(plan)
    if config.search == "optuna":
        require_optuna()
        points = config.parsed_space().sample(SAMPLED, config.search_seed)
        settings = [at_point(plan.bases[0], point, n) for n, point in enumerate(points)]
    else:
        settings = plan.settings(plan.bases)
    experiments = [(s, plan.trial(s, config.seeds[0]).experiment) for s in settings]
    found: list[tuple[str, ...]] = []
    for setting, experiment in experiments[:: -(-len(settings) // MOST_CHECKED)]:
        try:
            found.append(kind_of(experiment).check(experiment))
        except PromptideError as error:
            raise in_setting(setting, error) from error
    lengths = sorted({len(tasks) for tasks in found})
    if len(lengths) > 1:
        raise ConfigError(
            f"the trials' streams have {lengths} tasks; give benchmark.tasks the same number "
            "everywhere, or their averages cannot be compared"
        )
    rule = config.rule(lengths[0])
    if config.scheduler == "pbt":
        _check_population(plan, settings, lengths[0])
    elif rule.kind != "none" and not rule.rungs:
        raise ConfigError(
            f"tune.grace_tasks={config.grace_tasks}: a stream of {lengths[0]} tasks ends before "
            f"tune.scheduler={config.scheduler} compares any trial; lower it, or use "
            "tune.scheduler=none"
        )
    return found[0]


def _check_rates(plan: SweepPlan) -> None:
    """Raises ConfigError for learning rates of a method that nobody tries."""
    labels = (base.label for base in plan.bases)
    known = {DEFAULT, *plan.config.methods, *labels, *METHODS}
    for name in plan.config.learning_rates:
        if name not in known:
            raise ConfigError(
                f"tune.learning_rates.{name}: no method of that name is tried; one of "
                f"{', '.join(sorted(known))}"
            )


def _check_population(plan: SweepPlan, settings: Sequence[Setting], tasks: int) -> None:
    """Raises ConfigError where nobody is ever compared, or a key takes no list of values."""
    config = plan.config
    if len(settings) < 2:
        raise ConfigError(f"tune: a population of {len(settings)} has nobody to compare with")
    if not rungs(config.pbt.every, tasks):
        raise ConfigError(
            f"tune.pbt.every={config.pbt.every}: a stream of {tasks} tasks ends before any trial "
            f"is compared; use 1 to {tasks - 1}"
        )
    for key in config.pbt.keys:
        for setting in settings:
            if key in setting.values:
                value = setting.values[key]
                listed = at_point(plan.bases[0], {**setting.values, key: [value, value]}, 0)
                try:
                    experiment = plan.trial(listed, config.seeds[0]).experiment
                    kind_of(experiment).check(experiment)
                except PromptideError as error:
                    raise ConfigError(
                        f"tune.pbt.keys: {key} takes no list of values, one for each task: {error}"
                    ) from error
                break


def in_setting(setting: Setting, error: PromptideError) -> PromptideError:
    """The same error, saying which setting of the sweep it is about."""
    told = ConfigError if type(error) is PromptideError else type(error)
    return told(f"setting {setting.label!r} of the sweep: {error}")

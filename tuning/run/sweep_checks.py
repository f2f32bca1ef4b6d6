"""Checks of a whole sweep before its first trial starts."""

from collections.abc import Sequence

from system.config.schema import ClusterConfig
from system.errors import ConfigError, PromptideError
from system.methods.base import METHODS
from system.storage.run_directory import CONFIG
from tuning.search.population import rungs
from tuning.search.proposals import require_optuna
from tuning.search.sweep_config import DEFAULT
from tuning.search.sweep_plan import SweepPlan, TrialConfig, at_point

MOST_CHECKED = 64  # trial configs whose backbone and method are built; all are composed
SAMPLED = 8  # random points that are checked where Optuna proposes the real ones later


def check_sweep(plan: SweepPlan) -> tuple[str, ...]:
    """Check the trial configs as a run checks its own config; of Optuna's, a random sample.

    Returns the tasks of the first one: all trials of a sweep have the same number of tasks. Raises
    ConfigError when the sweep's directory is that of a run, or the error of the wrong trial config
    with its label.
    """
    if plan.folder.exists(CONFIG):
        raise ConfigError(
            f"run_name={plan.experiment.run_name!r} is a run in {plan.experiment.storage_path}; "
            "give the sweep another run_name"
        )
    config = plan.config
    check_shares(config.trials_per_gpu, plan.experiment.cluster)
    _check_rates(plan)
    if config.search == "optuna":
        require_optuna()
        points = config.parsed_space().sample(SAMPLED, config.search_seed)
        configs = [at_point(plan.bases[0], point, n) for n, point in enumerate(points)]
    else:
        configs = plan.trial_configs(plan.bases)
    trials = [plan.trial(each, config.seeds[0]) for each in configs]
    found: list[tuple[str, ...]] = []
    for trial in trials[:: -(-len(trials) // MOST_CHECKED)]:
        try:
            found.append(trial.kind.check(trial.experiment))
        except PromptideError as error:
            raise _in_config(trial.config, error) from error
    lengths = sorted({len(tasks) for tasks in found})
    if len(lengths) > 1:
        raise ConfigError(
            f"the trials' streams have {lengths} tasks; give benchmark.tasks the same number "
            "everywhere, or their averages cannot be compared"
        )
    rule = config.rule(lengths[0])
    if config.scheduler == "pbt":
        _check_population(plan, configs, lengths[0])
    elif rule.kind != "none" and not rule.rungs:
        raise ConfigError(
            f"tune.grace_tasks={config.grace_tasks}: a stream of {lengths[0]} tasks ends before "
            f"tune.scheduler={config.scheduler} compares any trial; lower it, or use "
            "tune.scheduler=none"
        )
    return found[0]


def check_shares(trials_per_gpu: int, cluster: ClusterConfig) -> None:
    """Raises ConfigError for trials that are to share a GPU but have none, or workers of their own.

    Two workers of one trial could be given the same card, on which NCCL refuses to connect them.
    """
    if trials_per_gpu == 1:
        return
    asked = f"tune.trials_per_gpu={trials_per_gpu}"
    if not cluster.gpu:
        raise ConfigError(
            f"{asked} has no GPU to share: set cluster.gpu=true; trials share a CPU by "
            "cluster.cpus_per_worker below 1"
        )
    if cluster.workers:
        raise ConfigError(
            f"{asked} with cluster.workers={cluster.workers}: two workers of a trial cannot be on "
            "one card; set cluster.workers=0, so that each trial trains in its own process"
        )


def _check_rates(plan: SweepPlan) -> None:
    """Raises ConfigError for learning rates of a method that is not tried."""
    labels = (base.label for base in plan.bases)
    known = {DEFAULT, *plan.config.methods, *labels, *METHODS}
    for name in plan.config.learning_rates:
        if name not in known:
            raise ConfigError(
                f"tune.learning_rates.{name}: no method of that name is tried; one of "
                f"{', '.join(sorted(known))}"
            )


def _check_population(plan: SweepPlan, configs: Sequence[TrialConfig], tasks: int) -> None:
    """Raises ConfigError if no trials are ever compared, or a key accepts no list of values."""
    config = plan.config
    if len(configs) < 2:
        raise ConfigError(f"tune: a population of {len(configs)} has nothing to compare with")
    if not rungs(config.pbt.every, tasks):
        raise ConfigError(
            f"tune.pbt.every={config.pbt.every}: a stream of {tasks} tasks ends before any trial "
            f"is compared; use 1 to {tasks - 1}"
        )
    for key in config.pbt.keys:
        for each in configs:
            if key in each.values:
                value = each.values[key]
                listed = at_point(plan.bases[0], {**each.values, key: [value, value]}, 0)
                try:
                    trial = plan.trial(listed, config.seeds[0])
                    trial.kind.check(trial.experiment)
                except PromptideError as error:
                    raise ConfigError(
                        f"tune.pbt.keys: {key} takes no list of values, one for each task: {error}"
                    ) from error
                break


def _in_config(config: TrialConfig, error: PromptideError) -> PromptideError:
    """The same error, with the trial config that it is about."""
    kind = ConfigError if type(error) is PromptideError else type(error)
    return kind(f"trial config {config.label!r} of the sweep: {error}")

"""`promptide plan`: what a run will do and take, before anything runs and without Ray."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from system.cli.experiments import experiment_from
from system.cli.prepared_experiment import with_prepared_options
from system.config.compose import given_options
from system.errors import ConfigError
from system.planning.machines import PlanConfig, compose_plan, is_plan
from system.planning.plan import Amount, Plan, plans_of
from system.planning.work import Work

MEASURE = "--measure"
STEPS = (("", 1), ("K", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12), ("P", 10**15))


def plan(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Print the work, the FLOPs, the memory, the disk and the time of a run as it is composed.

    With `--measure` a few of its steps are made on this machine first. The benchmark has to be
    prepared: nothing is written.
    """
    words = [word for word in overrides if word != MEASURE]
    flags = [word for word in words if word.startswith("--")]
    if flags:
        raise ConfigError(f"plan {flags[0]}: unknown; {MEASURE} is the one option")
    machine = compose_plan([word for word in words if is_plan(word)])
    own = [word for word in words if not is_plan(word)]
    experiment = with_prepared_options(experiment_from(own, file), given_options(own, file))
    for each in plans_of(experiment, measure=MEASURE in overrides):
        print_plan(each, machine, experiment.cluster.workers, console)


def print_plan(plan: Plan, machine: PlanConfig, workers: int, console: Console) -> None:
    """The plan of one run."""

    def tell(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    work = plan.work
    tell(f"run {work.run}: {work.samples:,} samples in {work.steps:,} steps")
    for table in (_steps(work), _passes(plan)):
        console.print(table)
    for line in (*work.notes, *(() if plan.costs is None else plan.costs.notes)):
        tell(line)
    if plan.costs is None:
        tell(f"FLOPs, memory and time are not known: {plan.missing}")
    elif plan.uncosted:
        tell(f"without the FLOPs of: {', '.join(plan.uncosted)}")
    tell(f"bytes read of the shards: {size(work.bytes_read)}B, where nothing is cached")
    for name, amounts in (("memory of a worker", plan.memory), ("disk", plan.disk)):
        tell(f"{name}: {_listed(amounts)}")
    train, rest = plan.flops(training=True), plan.flops(training=False)
    if train is not None and rest is not None:
        tell(f"FLOPs: {size(train)} of training, {size(rest)} of features and evaluation")
        tell(f"expected on {machine.described(workers)}:")
        tell(
            f"  {duration(machine.seconds(train, workers))} of training, "
            f"{duration(machine.seconds(rest, workers))} of features and evaluation; arithmetic "
            "alone, as long as data come fast enough"
        )
    if plan.measured is not None:
        _print_measured(plan, workers, machine, tell)


def _print_measured(
    plan: Plan, workers: int, machine: PlanConfig, tell: Callable[[str], None]
) -> None:
    found, devices = plan.measured, machine.devices or max(workers, 1)
    assert found is not None
    tell(
        f"measured on {found.device}, after a warm-up, loading included: {found.seconds:.3g} s per "
        f"step of {found.batch}, {found.rate:.3g} samples/s"
    )
    flops = plan.flops(training=True)
    if flops and plan.work.samples:
        reached = flops / plan.work.samples * found.rate
        tell(f"  {size(reached)}FLOP/s reached")
    seconds = plan.work.samples / found.rate
    tell(
        f"  the training: {duration(seconds)} on one such device, {duration(seconds / devices)} on "
        f"{devices} if nothing is lost between them"
    )


def _steps(work: Work) -> Table:
    table = Table("training", "batch", "steps per epoch", "epochs", "steps", "samples")
    for one in work.trained:
        counts = (one.batch, one.steps_per_epoch, one.epochs, one.steps, one.samples)
        table.add_row(one.subject, *(f"{count:,}" for count in counts))
    return table


def _passes(plan: Plan) -> Table:
    """Encodes: a row a phase and part, with bounds where routes decide."""
    table = Table("phase", "part", "at least", "likely", "at most", "FLOPs per sample", "kept")
    for one in plan.work.passes:
        cost = None if plan.costs is None else plan.costs.of.get((one.part, one.mode))
        table.add_row(
            one.phase,
            one.part,
            *(f"{count:,}" for count in (one.least, one.likely, one.most)),
            "not counted" if cost is None else size(cost.flops),
            "for all runs" if one.kept else "",
        )
    return table


def _listed(amounts: Sequence[Amount]) -> str:
    told = [
        f"{one.what} {size(one.bytes)}B" + (f" ({one.note})" if one.note else "") for one in amounts
    ]
    return "; ".join(told) or "not known"


def size(value: float) -> str:
    """A number with three digits and the letter of its thousands: `1.23 G`."""
    unit, scale = next((each for each in reversed(STEPS) if abs(value) >= each[1]), STEPS[0])
    return f"{value / scale:.3g} {unit}"


def duration(seconds: float) -> str:
    """In the unit that a person would say it in."""
    for unit, length in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.3g} s"

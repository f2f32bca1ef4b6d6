"""Results of a sweep: trials.parquet, the comparison's tables, best.yaml."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from omegaconf import OmegaConf

from system.errors import TrialsFailedError
from system.storage.files import Folder
from system.storage.run_directory import SWEEP, RunDirectory
from tuning.report.certainty import certainty_of
from tuning.report.comparison import Comparison, compare
from tuning.report.comparison_tables import to_latex, to_markdown
from tuning.run.trial_kind import TrialRecord
from tuning.run.trial_table import Status, TrialTable
from tuning.search.sweep_config import SweepMetric
from tuning.search.sweep_plan import SweepPlan, Trial

TRIALS_TABLE = "trials.parquet"
INTERVALS = "intervals.json"  # how sure the comparison is
MARKDOWN, LATEX, BEST = "comparison.md", "comparison.tex", "best.yaml"
SECTIONS = ("average", "forgetting", "zero_shot")  # a column per section and recall


def trials_schema(recalls: Sequence[str]) -> pa.Schema:
    """The columns of trials.parquet, for trials that have these recalls."""
    return pa.schema(
        [
            ("trial", pa.string()),
            ("setting", pa.string()),  # label of the trial config
            ("method", pa.string()),
            ("sharing", pa.string()),  # of a method in a stream: own, shared or frozen
            ("values", pa.string()),  # JSON: values from the search space by key
            ("overrides", pa.list_(pa.string())),
            ("learning_rate", pa.float64()),
            ("seed", pa.int64()),
            ("parent", pa.string()),  # trial config whose first tasks this fork inherits
            ("forked_after", pa.int32()),  # number of inherited tasks; null without a parent
            ("status", pa.string()),
            ("tasks_done", pa.int32()),
            ("stopped_after", pa.int32()),  # tasks; null unless stopped
            ("reason", pa.string()),  # why it failed
            ("figure", pa.float64()),  # score at the end: mean of the sweep's metrics
            ("figure_by_task", pa.list_(pa.float64())),  # score over the tasks so far, after each
            *[(f"{part}_{recall}", pa.float64()) for part in SECTIONS for recall in recalls],
            ("shown", pa.string()),  # JSON: columns of a stage's table of methods, by heading
            ("trainable_parameters", pa.int64()),
            ("trainable_parameters_per_task", pa.int64()),
            ("seconds", pa.float64()),
            ("seconds_per_task", pa.float64()),
        ]
    )


@dataclass(frozen=True)
class Outcome:
    """Results of a sweep: its trials, a row each, and the comparison of the trial configs."""

    trials: pa.Table
    comparison: Comparison
    metric: SweepMetric
    folder: Folder

    def require_success(self) -> None:
        """Raises TrialsFailedError if a trial failed or never ran."""
        statuses = self.trials["status"].to_pylist()
        failed = len(statuses) - statuses.count("finished") - statuses.count("stopped")
        if failed:
            raise TrialsFailedError(f"{failed} of {len(statuses)} trials failed; see above why")


def write_analysis(plan: SweepPlan, trials: TrialTable, tasks: Sequence[str]) -> Outcome:
    """Write the tables of all trials; best.yaml if a trial config finished with all its seeds."""
    statuses, stops = trials.statuses(), trials.stops()
    rows = []
    for name, entry in trials.entries.items():
        record = entry.trial.record(plan.config.metric)
        reason = record.failure or entry.reason
        rows.append(trial_row(entry.trial, record, statuses[name], stops.get(name), reason))
    recalls = plan.kind.recalls(plan.experiment)
    table = pa.Table.from_pylist(rows, schema=trials_schema(recalls))
    folder = plan.folder
    folder.write_table(TRIALS_TABLE, table)
    metric = plan.metric(tasks)
    # Not from `rows`: in the table, columns that a kind of trial does not fill are null.
    comparison = compare(table.to_pylist(), seeds=len(plan.config.seeds))
    if recalls:
        base = plan.config.base or comparison.best
        certainty = certainty_of(_finished(trials, statuses), comparison.headline, base)
        comparison = replace(comparison, certainty=certainty)
        folder.write_json(INTERVALS, certainty.to_json())
    folder.write(MARKDOWN, to_markdown(comparison, metric).encode())
    folder.write(LATEX, to_latex(comparison, metric).encode())
    if comparison.best is None:
        folder.delete(BEST)  # of an earlier start with other seeds
    else:
        first = next(
            entry.trial
            for entry in trials.entries.values()
            if entry.trial.config.label == comparison.best
        )
        folder.write(BEST, best_config(plan, first).encode())
    return Outcome(table, comparison, metric, folder)


def _finished(trials: TrialTable, statuses: Mapping[str, Status]) -> dict[str, dict[int, Folder]]:
    """The directories of finished trials: label of the trial config -> seed -> directory."""
    folders: dict[str, dict[int, Folder]] = {}
    for name, entry in trials.entries.items():
        if statuses[name] == "finished":
            seeds = folders.setdefault(entry.trial.config.label, {})
            seeds[entry.trial.seed] = RunDirectory.of(entry.trial.experiment).folder
    return folders


def write_description(plan: SweepPlan, tasks: Sequence[str]) -> None:
    """Write sweep.json at the start of a sweep; it marks the directory as a sweep's."""
    metric = plan.metric(tasks)
    description = {
        "run": plan.experiment.run_name,
        "kind": metric.kind,
        "benchmark": plan.experiment.benchmark.name,
        "tasks": list(tasks),
        "metric": list(plan.config.metric),
        "figure": {"name": metric.name, "unit": metric.unit},
        "seeds": list(plan.config.seeds),
        "search": plan.config.search,
        "fewer_parameters": plan.config.fewer_parameters,
        "scheduler": plan.config.scheduler,
        "evaluated_with": plan.kind.evaluated_with(plan.experiment),
        "command": list(plan.overrides),
    }
    plan.folder.write_json(SWEEP, description)


def best_config(plan: SweepPlan, trial: Trial) -> str:
    """A trial's resolved config, in YAML, as a run in the same storage path as the sweep."""
    experiment = replace(
        trial.experiment,
        run_name=f"{plan.experiment.run_name}-best",
        storage_path=plan.experiment.storage_path,
    )
    return OmegaConf.to_yaml(OmegaConf.create(plain(experiment.to_dict())))


def trial_row(
    trial: Trial,
    record: TrialRecord,
    status: Status,
    stopped_after: int | None,
    reason: str | None,
) -> dict[str, Any]:
    """A row of trials.parquet; missing values are null."""
    scores = record.scores if stopped_after is None else record.scores[:stopped_after]
    # A stopped trial has no final metrics, even if it had finished before it was stopped.
    known = record if status == "finished" else replace(record, metrics=None)
    origin = trial.config.origin
    return {
        "trial": trial.name,
        "setting": trial.config.label,
        "parent": origin and origin.parent,
        "forked_after": origin and origin.tasks,
        "values": json.dumps(trial.config.values),
        "overrides": list(trial.config.overrides),
        "seed": trial.seed,
        "status": status,
        "tasks_done": len(scores),
        "stopped_after": stopped_after,
        "reason": reason,
        "figure": scores[-1] if status == "finished" else None,
        "figure_by_task": scores,
        **trial.kind.columns(trial.experiment, known),
    }


def plain(value: Any) -> Any:
    """Tuples as lists and keys as strings, as YAML reads them back."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value

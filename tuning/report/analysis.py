"""What came of a sweep: trials.parquet, the comparison's tables, best.yaml."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from omegaconf import OmegaConf

from system.errors import TrialsFailedError
from system.storage.files import Folder
from system.storage.run_directory import SWEEP
from tuning.report.comparison import Comparison, compare, to_latex, to_markdown
from tuning.report.measure import Measure
from tuning.run.records import TrialRecord
from tuning.run.trial_kind import kind_of, read_record
from tuning.run.trial_table import Board, Status
from tuning.search.sweep_plan import SweepPlan, Trial

TRIALS_TABLE = "trials.parquet"
MARKDOWN, LATEX, BEST = "comparison.md", "comparison.tex", "best.yaml"
SECTIONS = ("average", "forgetting", "zero_shot")  # what a trial has of each recall


def trials_schema(recalls: Sequence[str]) -> pa.Schema:
    """The columns of trials.parquet, for trials that have these recalls."""
    return pa.schema(
        [
            ("trial", pa.string()),
            ("setting", pa.string()),
            ("method", pa.string()),
            ("values", pa.string()),  # JSON: what was drawn, by its key
            ("overrides", pa.list_(pa.string())),
            ("learning_rate", pa.float64()),
            ("seed", pa.int64()),
            ("parent", pa.string()),  # the setting whose first tasks this one's trial took over
            ("forked_after", pa.int32()),  # so many tasks; null where it has no parent
            ("status", pa.string()),
            ("tasks_done", pa.int32()),
            ("stopped_after", pa.int32()),  # tasks; null unless stopped
            ("reason", pa.string()),  # why it failed
            ("figure", pa.float64()),  # mean of the sweep's metrics at the end
            ("figure_by_task", pa.list_(pa.float64())),  # over the tasks so far, after each
            *[(f"{part}_{recall}", pa.float64()) for part in SECTIONS for recall in recalls],
            ("shown", pa.string()),  # JSON: what a stage's table of methods shows, by its heading
            ("trainable_parameters", pa.int64()),
            ("trainable_parameters_per_task", pa.int64()),
            ("seconds", pa.float64()),
            ("seconds_per_task", pa.float64()),
        ]
    )


@dataclass(frozen=True)
class Outcome:
    """A sweep's figures: a row a trial, a row a setting (best first), and the best one's name."""

    trials: pa.Table
    comparison: Comparison
    measure: Measure
    folder: Folder

    def require_success(self) -> None:
        """Raises TrialsFailedError if a trial failed, or one was left that never ran."""
        statuses = self.trials["status"].to_pylist()
        failed = len(statuses) - statuses.count("finished") - statuses.count("stopped")
        if failed:
            raise TrialsFailedError(f"{failed} of {len(statuses)} trials failed; see above why")


def write_analysis(plan: SweepPlan, board: Board, tasks: Sequence[str]) -> Outcome:
    """Write the tables of all trials; best.yaml when a setting finished with all its seeds."""
    statuses, stops = board.statuses(), board.stops()
    rows = []
    for name, entry in board.entries.items():
        record = read_record(entry.trial.experiment, plan.config.metric)
        reason = record.failure or entry.reason
        rows.append(trial_row(entry.trial, record, statuses[name], stops.get(name), reason))
    recalls = kind_of(plan.experiment).recalls(plan.experiment)
    table = pa.Table.from_pylist(rows, schema=trials_schema(recalls))
    folder = plan.folder
    folder.write_table(TRIALS_TABLE, table)
    measure = plan.measure(tasks)
    # read back from the table, so that what a kind of trial has not is null
    comparison = compare(table.to_pylist(), seeds=len(plan.config.seeds))
    folder.write(MARKDOWN, to_markdown(comparison, measure).encode())
    folder.write(LATEX, to_latex(comparison, measure).encode())
    if comparison.best is None:
        folder.delete(BEST)  # of an earlier start with other seeds
    else:
        first = next(
            entry.trial
            for entry in board.entries.values()
            if entry.trial.setting.label == comparison.best
        )
        folder.write(BEST, best_config(plan, first).encode())
    return Outcome(table, comparison, measure, folder)


def write_description(plan: SweepPlan, tasks: Sequence[str]) -> None:
    """Write what is swept, by which the directory is known as a sweep's: at its start."""
    measure = plan.measure(tasks)
    description = {
        "run": plan.experiment.run_name,
        "kind": measure.kind,
        "benchmark": plan.experiment.benchmark.name,
        "tasks": list(tasks),
        "metric": list(plan.config.metric),
        "figure": {"name": measure.name, "unit": measure.unit},
        "seeds": list(plan.config.seeds),
        "search": plan.config.search,
        "fewer_parameters": plan.config.fewer_parameters,
        "scheduler": plan.config.scheduler,
        "evaluated_with": kind_of(plan.experiment).evaluated_with(plan.experiment),
        "command": list(plan.overrides),
    }
    plan.folder.write_json(SWEEP, description)


def best_config(plan: SweepPlan, trial: Trial) -> str:
    """A trial's resolved config as a run of its own beside the sweep, in YAML."""
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
    """A row of trials.parquet; what is not there is null."""
    figures = record.figures if stopped_after is None else record.figures[:stopped_after]
    # A trial that is stopped has no final figures, even if it was through before the verdict.
    known = record if status == "finished" else replace(record, metrics=None)
    origin = trial.setting.origin
    return {
        "trial": trial.name,
        "setting": trial.setting.label,
        "parent": origin and origin.setting,
        "forked_after": origin and origin.tasks,
        "values": json.dumps(trial.setting.values),
        "overrides": list(trial.setting.overrides),
        "seed": trial.seed,
        "status": status,
        "tasks_done": len(figures),
        "stopped_after": stopped_after,
        "reason": reason,
        "figure": figures[-1] if status == "finished" else None,
        "figure_by_task": figures,
        **kind_of(trial.experiment).columns(trial.experiment, known),
    }


def plain(value: Any) -> Any:
    """Tuples as lists, as YAML gives them back."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value

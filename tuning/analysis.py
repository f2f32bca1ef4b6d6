"""What came of a sweep: trials.parquet, the comparison's tables, best.yaml."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from omegaconf import OmegaConf

from system.prompts.method import METHODS
from system.storage.files import Folder
from system.storage.results import RECALLS
from tuning.board import Board, Status
from tuning.comparison import Comparison, compare, to_latex, to_markdown
from tuning.records import TrialRecord, read_record
from tuning.settings import SweepPlan, Trial

TRIALS_TABLE = "trials.parquet"
MARKDOWN, LATEX, BEST = "comparison.md", "comparison.tex", "best.yaml"
SWEEP = "sweep.json"
PHASES = ("features", "train", "evaluate")  # a worker's work: what does not depend on the driver
SCHEMA = pa.schema(
    [
        ("trial", pa.string()),
        ("setting", pa.string()),
        ("method", pa.string()),
        ("values", pa.string()),  # JSON: what was drawn, by its key
        ("overrides", pa.list_(pa.string())),
        ("learning_rate", pa.float64()),
        ("seed", pa.int64()),
        ("status", pa.string()),
        ("tasks_done", pa.int32()),
        ("stopped_after", pa.int32()),  # tasks; null unless stopped
        ("reason", pa.string()),  # why it failed
        ("recall", pa.float64()),  # mean of the sweep's metrics at the end
        ("recall_by_task", pa.list_(pa.float64())),  # over the tasks so far, after each
        *[(f"average_{metric}", pa.float64()) for metric in RECALLS],
        *[(f"forgetting_{metric}", pa.float64()) for metric in RECALLS],
        *[(f"zero_shot_{metric}", pa.float64()) for metric in RECALLS],
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
    folder: Folder


def write_analysis(plan: SweepPlan, board: Board, tasks: Sequence[str]) -> Outcome:
    """Write the tables of all trials; best.yaml when a setting finished with all its seeds."""
    statuses, stops = board.statuses(), board.stops()
    rows = []
    for name, entry in board.entries.items():
        record = read_record(entry.trial.experiment, plan.config.metric)
        rows.append(trial_row(entry.trial, record, statuses[name], stops.get(name)))
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    folder = plan.folder
    folder.write_table(TRIALS_TABLE, table)
    comparison = compare(rows, seeds=len(plan.config.seeds))
    folder.write(MARKDOWN, to_markdown(comparison).encode())
    folder.write(LATEX, to_latex(comparison).encode())
    description = {
        "run": plan.experiment.run_name,
        "benchmark": plan.experiment.benchmark.name,
        "tasks": list(tasks),
        "metric": list(plan.config.metric),
        "seeds": list(plan.config.seeds),
        "search": plan.config.search,
        "scheduler": plan.config.scheduler,
        "gallery": plan.experiment.evaluation.gallery,
        "split": plan.experiment.evaluation.split,
        "command": list(plan.overrides),
    }
    folder.write_json(SWEEP, description)
    if comparison.best is not None:
        first = next(
            entry.trial
            for entry in board.entries.values()
            if entry.trial.setting.label == comparison.best
        )
        folder.write(BEST, best_config(plan, first).encode())
    return Outcome(table, comparison, folder)


def best_config(plan: SweepPlan, trial: Trial) -> str:
    """A trial's resolved config as a run of its own beside the sweep, in YAML."""
    experiment = replace(
        trial.experiment,
        run_name=f"{plan.experiment.run_name}-best",
        storage_path=plan.experiment.storage_path,
    )
    return OmegaConf.to_yaml(OmegaConf.create(plain(experiment.to_dict())))


def trial_row(
    trial: Trial, record: TrialRecord, status: Status, stopped_after: int | None
) -> dict[str, Any]:
    """A row of trials.parquet; what is not there is null."""
    metrics = record.metrics or {}
    tasks = len(metrics["tasks"]) if metrics else None
    figures = record.figures if stopped_after is None else record.figures[:stopped_after]
    seconds = sum(metrics["wall_seconds"].get(phase, 0.0) for phase in PHASES) if metrics else None
    zero_shot: Mapping[str, Any] = metrics.get("zero_shot", {})
    method = trial.experiment.method["name"]
    trains = METHODS.get(method).method.trains_on != "nothing"
    row: dict[str, Any] = {
        "trial": trial.name,
        "setting": trial.setting.label,
        "method": method,
        "values": json.dumps(trial.setting.values),
        "overrides": list(trial.setting.overrides),
        "learning_rate": trial.experiment.stage.optimiser.learning_rate if trains else None,
        "seed": trial.seed,
        "status": status,
        "tasks_done": len(figures),
        "stopped_after": stopped_after,
        "reason": record.failure,
        "recall": figures[-1] if status == "finished" else None,
        "recall_by_task": figures,
        "trainable_parameters": metrics.get("trainable_parameters"),
        "trainable_parameters_per_task": metrics.get("trainable_parameters_per_task"),
        "seconds": seconds,
        "seconds_per_task": None if seconds is None or tasks is None else seconds / tasks,
    }
    sections = (
        ("average", metrics.get("average", {})),
        ("forgetting", metrics.get("forgetting", {})),
        ("zero_shot", zero_shot.get("average", {})),
    )
    # A trial that is stopped has no final figures, even if it was through before the verdict.
    for section, values in sections if status == "finished" else ():
        row |= {f"{section}_{metric}": values.get(metric) for metric in RECALLS}
    return row


def plain(value: Any) -> Any:
    """Tuples as lists, as YAML gives them back."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value

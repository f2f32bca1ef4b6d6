"""What an evaluation without training leaves: metrics.json, its tables, its config."""

from typing import Any

import pyarrow as pa
from omegaconf import OmegaConf

from system.config.differences import plain
from system.engine.provenance import code_provenance, data_provenance, device_provenance
from system.results.accuracy_matrix import ZERO_SHOT
from system.results.metric_sections import defined, per_task_values, query_counts, row_mean
from system.storage.files import Folder
from system.storage.run_directory import (
    ACCURACY_MATRIX,
    BOX_EXAMPLES,
    CONFIG,
    MATRIX_SCHEMA,
    METRICS,
    RANKS,
    RunDirectory,
    matrix_tables,
)
from system.stream.evaluate_adapters import Evaluated
from system.stream.found_ranks import run_intervals


def write_evaluation(evaluated: Evaluated) -> tuple[Folder, dict[str, Any]]:
    """Write an evaluation's files below its run's directory, over those of the same one before.

    Splits of grounding other than the leading one are judged here. Returns the folder and the
    content of metrics.json, whose sections are those of a run.
    """
    experiment, tasks = evaluated.experiment, evaluated.matrix.evaluated
    splits = experiment.evaluation.splits
    folder = RunDirectory.of(experiment).evaluation(experiment.benchmark.name, splits)
    work = evaluated.work
    outcome = work.outcome(evaluated.learned.method, evaluated.learned.router)
    ranks = work.ranks(tasks)
    metrics = _metrics(evaluated, outcome, ranks)
    folder.write(CONFIG, OmegaConf.to_yaml(plain(experiment.to_dict())).encode())
    matrix = matrix_tables(evaluated.matrix.columns())
    folder.write_tables(ACCURACY_MATRIX, MATRIX_SCHEMA, matrix)
    folder.write_table(RANKS, ranks)
    if work.examples_file == BOX_EXAMPLES:
        folder.write_table(BOX_EXAMPLES, work.examples(tasks))
    folder.write_json(METRICS, metrics)
    return folder, metrics


def _metrics(evaluated: Evaluated, outcome: dict[str, Any], ranks: pa.Table) -> dict[str, Any]:
    experiment, matrix, work = evaluated.experiment, evaluated.matrix, evaluated.work
    undefined: dict[str, str] = {}

    def averages(section: str, trained: int) -> dict[str, float | None]:
        return {
            metric: defined(row_mean(matrix, metric, trained), f"{section}.{metric}", undefined)
            for metric in matrix.recalls
        }

    average, before = (
        averages("average", evaluated.trained),
        averages("zero_shot.average", ZERO_SHOT),
    )
    split = experiment.evaluation.split
    metrics: dict[str, Any] = {
        "run": experiment.run_name,
        "method": evaluated.header.method["name"],
        "adapters": evaluated.adapters,  # null: the frozen model alone
        "learned_on": None
        if evaluated.adapters is None
        else {"benchmark": evaluated.header.benchmark, "tasks": list(matrix.tasks)},
        "backbone": {"name": work.model.name, "fingerprint": work.model.fingerprint},
        "benchmark": data_provenance(evaluated.manifest),
        "seed": evaluated.header.seed,
        "protocol": evaluated.header.protocol,
        **code_provenance(),
        "device": device_provenance(work.worker.group.device),
        "evaluation": {
            "split": split if isinstance(split, str) else list(split),
            **work.evaluation.described(),
            "transform": work.transform,
        },
        "tasks": list(matrix.evaluated),
        "average": average,
        "queries": query_counts(matrix, evaluated.trained),
        "per_task": per_task_values(matrix, evaluated.trained, "per_task", undefined),
        "zero_shot": {
            "average": before,
            "per_task": per_task_values(matrix, ZERO_SHOT, "zero_shot.per_task", undefined),
        },
        "intervals": run_intervals(ranks, {"average": average, "zero_shot": before}),
        "undefined": undefined,
    }
    if "splits" in outcome:  # of boxes
        metrics["splits"] = outcome["splits"]["trained"]
        metrics["zero_shot"]["splits"] = outcome["splits"]["zero_shot"]
        undefined |= outcome["splits"]["undefined"]
    if "mask_source" in outcome:
        metrics["mask_source"] = outcome["mask_source"]
    return metrics

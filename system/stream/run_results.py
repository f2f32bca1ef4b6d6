"""From what the stream committed to the metrics of a run: metrics.json and its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from system.config.schema import ExperimentConfig
from system.data.shards.faults import Fault, summarise, write_quarantine
from system.engine.provenance import code_provenance
from system.errors import ReplayRefusedError
from system.results.accuracy_matrix import ZERO_SHOT, AccuracyMatrix, row_of
from system.results.committed_rows import unpacked, unpacked_bools, unpacked_floats
from system.results.held_out import held_out_metrics
from system.results.metric_sections import defined, per_task_values, query_counts, row_mean
from system.results.replay_audit import replayed_rows
from system.results.stream_metrics import (
    AVERAGE,
    COMBINED,
    STREAM_METRICS,
    CombinedMetric,
    Summary,
)
from system.storage.run_directory import (
    ACCESS_LOG,
    ACCURACY_MATRIX,
    MATRIX_SCHEMA,
    METRICS,
    OUTCOME,
    RANKS,
    SIMILARITY_SCHEMA,
    TASK_SIMILARITY,
    TRAINING_LOG,
    RunDirectory,
    matrix_tables,
)
from system.stream.found_ranks import run_intervals

#: Tasks whose pairs metrics.json lists; those of more have a table of their own.
MOST_IN_JSON = 64
#: By modality what a routed sample is called, and the metric of its routing accuracy.
ROUTED = {"vision": ("image", "route_image"), "text": ("text", "route_text")}


@dataclass(frozen=True)
class RunRecord:
    """All that a finished run left in its journal and its outcome file."""

    experiment: ExperimentConfig
    benchmark: Mapping[str, Any]  # see `data_provenance`
    tasks: tuple[str, ...]
    committed: Sequence[Mapping[str, Any]]  # payloads in task order
    outcome: Mapping[str, Any]
    access_log: pa.Table
    wall_seconds: Mapping[str, float]  # of the driver, by phase
    quarantined: Sequence[Fault] = ()
    ranks: pa.Table | None = None  # a run of an earlier version has none

    @cached_property
    def matrix(self) -> AccuracyMatrix:
        """The accuracy matrix with the zero-shot row."""
        # A live stream that has ended is evaluated anew: its tasks were not all there before.
        anew = self.outcome.get("matrix")
        blocks = unpacked([anew] if anew else [payload["rows"] for payload in self.committed])
        before = self.outcome.get("zero_shot_before")
        # Of boxes there is no gallery, whatever the config says.
        if before is None and self.outcome.get("evaluated", {}).get("gallery") == "seen":
            before = ()  # an earlier version's run does not know
        return AccuracyMatrix(
            self.tasks,
            before=None if before is None else map(row_of, before),
            blocks=blocks,
        )

    @cached_property
    def held_out(self) -> AccuracyMatrix | None:
        """The matrix of the held-out benchmarks; None where there are none."""
        names = self.experiment.benchmark.held_out
        rows = [row for payload in self.committed for row in payload.get("held_out", ())]
        values = [{key: row[key] for key in row if key != "held_out"} for row in rows]
        return AccuracyMatrix(self.tasks, map(row_of, values), names) if names else None

    @property
    def smaller_batches(self) -> dict[str, int]:
        """The global batch of each task that did not fill one of `stage.batch_size`."""
        return {
            row["task"]: row["batch_size"]
            for payload in self.committed
            for row in payload["log"]
            if "batch_size" in row
        }

    @property
    def training_log(self) -> pa.Table:
        """One row an epoch; a loss term that an epoch has not is null."""
        rows = [dict(row) for payload in self.committed for row in payload["log"]]
        terms = dict.fromkeys(k for row in rows for k in row if k.startswith("loss_"))
        schema = pa.schema(
            [
                ("task_index", pa.int32()),
                ("task", pa.string()),
                ("epoch", pa.int32()),
                ("step", pa.int32()),
                ("loss", pa.float64()),
                *[(term, pa.float64()) for term in terms],
                ("images_per_second", pa.float64()),
                *([("batch_size", pa.int32())] if self.smaller_batches else []),
            ]
        )
        return pa.Table.from_pylist(rows, schema=schema)


def assemble_metrics(record: RunRecord) -> dict[str, Any]:
    """The content of metrics.json. An undefined value is null, its reason under `undefined`."""
    experiment, matrix = record.experiment, record.matrix
    split = experiment.evaluation.split
    undefined: dict[str, str] = {}

    def values(section: str, summaries: Mapping[str, Summary]) -> dict[str, float | None]:
        return {
            metric: defined(summary, f"{section}.{metric}", undefined)
            for metric, summary in summaries.items()
        }

    oracle = AccuracyMatrix(record.tasks, map(row_of, record.outcome["oracle"]))
    last = len(record.tasks) - 1
    averages = {
        "average": {recall: AVERAGE.of(matrix, recall) for recall in matrix.recalls},
        "zero_shot": {recall: row_mean(matrix, recall, ZERO_SHOT) for recall in matrix.recalls},
        "oracle": {recall: row_mean(oracle, recall, last) for recall in matrix.recalls},
    }
    per_task = record.outcome["trainable_parameters_per_task"]
    metrics = {
        "run": experiment.run_name,
        "method": experiment.method["name"],
        "backbone": {
            "name": record.outcome["backbone"],
            "fingerprint": record.outcome["backbone_fingerprint"],
        },
        "benchmark": {**record.benchmark, "order": experiment.benchmark.order},
        "seed": experiment.seed,
        "protocol": experiment.protocol,
        **code_provenance(),
        "device": record.outcome.get("device"),  # of the worker that leads
        "evaluation": {
            "split": split if isinstance(split, str) else list(split),
            "tasks_known": "learned so far"
            if experiment.stream.live and not record.outcome.get("matrix")
            else "all",
            **record.outcome["evaluated"],
            "transform": record.outcome["transform"],
            "router": _router(record),
        },
        "tasks": list(record.tasks),
        **summaries(matrix, undefined),
        "queries": query_counts(matrix, last),
        **(
            _combined(averages, undefined)
            if set(CombinedMetric.RECALLS) <= set(matrix.recalls)
            else {}
        ),
        "zero_shot": {
            "average": values("zero_shot.average", averages["zero_shot"]),
            "per_task": per_task_values(matrix, ZERO_SHOT, "zero_shot.per_task", undefined),
        },
        "oracle": {
            "average": values("oracle.average", averages["oracle"]),
            "per_task": per_task_values(oracle, last, "oracle.per_task", undefined),
        },
        **_held_out(record, undefined),
        "routing": _routing(record, undefined) if record.outcome["routed"] else None,
        "task_similarity": _similarity(record),
        "task_similarity_source": record.outcome["similarity_source"],
        "task_similarity_centred": record.outcome.get("similarity_centred", False),
        "attracting_tasks": _attracting(record),
        "trainable_parameters": record.outcome["trainable_parameters"],
        "trainable_parameters_per_task": per_task,
        **({"smaller_batches": record.smaller_batches} if record.smaller_batches else {}),
        "replays": record.outcome["replays"],
        "replayed_rows": replayed_rows(record.access_log, record.tasks),
        "quarantined": summarise(record.quarantined),
        "wall_seconds": _seconds(record),
        "undefined": undefined,
    }
    if metrics["task_similarity"] is None:
        undefined["task_similarity"] = (
            f"{TASK_SIMILARITY} holds that of more than {MOST_IN_JSON} tasks"
        )
    if record.ranks is not None:
        of = {section: metrics[section] for section in ("average", "zero_shot")}
        of["zero_shot"] = of["zero_shot"]["average"]
        metrics["intervals"] = run_intervals(record.ranks, of)
    apart = record.outcome.get("splits")
    if apart is not None:  # of boxes
        metrics["splits"] = apart["trained"]
        metrics["zero_shot"]["splits"] = apart["zero_shot"]
        undefined |= apart["undefined"]
    if "mask_source" in record.outcome:
        metrics["mask_source"] = record.outcome["mask_source"]
    if "denoising_steps" in record.outcome:
        metrics["denoising_steps"] = record.outcome["denoising_steps"]
    return metrics


def summaries(
    matrix: AccuracyMatrix, undefined: dict[str, str]
) -> dict[str, dict[str, float | None]]:
    """The summaries of a matrix as sections of metrics.json; reasons go to `undefined`."""
    return {
        metric.name: {
            recall: defined(metric.of(matrix, recall), f"{metric.name}.{recall}", undefined)
            for recall in matrix.recalls
        }
        for metric in STREAM_METRICS
    }


def _combined(
    averages: Mapping[str, Mapping[str, Summary]], undefined: dict[str, str]
) -> dict[str, dict[str, float | None]]:
    """Rsum and the like of each set of averages; of retrieval alone."""
    if not set(CombinedMetric.RECALLS) <= set(averages["average"]):
        return {}
    return {
        metric.name: {
            of: defined(metric.of(summaries), f"{metric.name}.{of}", undefined)
            for of, summaries in averages.items()
        }
        for metric in COMBINED
    }


def _router(record: RunRecord) -> str:
    """How the task of a test sample is inferred, in words."""
    if not record.outcome["routed"]:
        return "none"
    centers = record.experiment.evaluation.router_centers
    modalities = " and ".join(ROUTED[modality][0] for modality in record.outcome["routed"])
    return f"k-means on {modalities} features, {centers} centres a task and modality"


def _routing(record: RunRecord, undefined: dict[str, str]) -> dict[str, Any]:
    matrix, last = record.matrix, len(record.tasks) - 1
    found: dict[str, Any] = {}
    for name, metric in (ROUTED[modality] for modality in record.outcome["routed"]):
        found[name] = {
            task: defined(Summary(row.value, row.reason), f"routing.{name}.{task}", undefined)
            for row in matrix.rows_after(last, metric)
            for task in [matrix.tasks[row.evaluated_index]]
        }
        found[f"{name}_average"] = defined(
            AVERAGE.of(matrix, metric), f"routing.{name}_average", undefined
        )
    return found


def _similarities(record: RunRecord) -> list[NDArray[np.floating[Any]]]:
    """Each task's similarities to the tasks up to itself, (i + 1,)."""
    rows = [payload["similarity"] for payload in record.committed]
    return [unpacked_floats(row) if isinstance(row, str) else np.array(row) for row in rows]


def _attracts(record: RunRecord) -> list[NDArray[np.bool_] | None]:
    """Which of the tasks before it each task attracted when it was learned; None: not known."""
    found: list[NDArray[np.bool_] | None] = []
    for later, payload in enumerate(record.committed):
        row = payload.get("attracts")
        if isinstance(row, str):
            row = unpacked_bools(row, later)
        found.append(None if row is None else np.array(row[:later], np.bool_))
    return found


def _similarity(record: RunRecord) -> list[list[float | None]] | None:
    """The full symmetric matrix from the rows that each task computed with those before it.

    None for many tasks, whose similarities `TASK_SIMILARITY` holds.
    """
    size = len(record.tasks)
    if size > MOST_IN_JSON:
        return None
    full: list[list[float | None]] = [[None] * size for _ in range(size)]
    for i, row in enumerate(_similarities(record)):
        for j, value in enumerate(row.tolist()):
            full[i][j] = full[j][i] = value
    return full


def _attracting(record: RunRecord) -> list[list[str]] | None:
    """The pairs of tasks that attracted each other when the later one was learned.

    None for a method that compares no tasks, for a run from before pairs were recorded, and for
    many tasks, whose pairs `TASK_SIMILARITY` holds.
    """
    rows = _attracts(record)
    if len(rows) > MOST_IN_JSON or all(row is None for row in rows):
        return None
    return [
        [record.tasks[earlier], record.tasks[later]]
        for later, row in enumerate(rows)
        if row is not None
        for earlier in np.flatnonzero(row).tolist()
    ]


def _similarity_table(record: RunRecord) -> pa.Table:
    """All pairs as `TASK_SIMILARITY` has them."""
    similar, attracts = _similarities(record), _attracts(record)
    sizes = [len(row) for row in similar]
    parts = [
        pa.array([None] * size, pa.bool_())
        if row is None
        else pa.array([*row.tolist(), *[None] * (size - len(row))], pa.bool_())
        for size, row in zip(sizes, attracts, strict=True)
    ]
    none = np.zeros(0)
    columns = [
        np.repeat(np.arange(len(sizes)), sizes).astype(np.int32),
        np.concatenate([none, *(np.arange(size) for size in sizes)]).astype(np.int32),
        np.concatenate([none, *similar]).astype(np.float32),
        pa.chunked_array(parts, pa.bool_()),
    ]
    return pa.table(columns, schema=SIMILARITY_SCHEMA)


def _held_out(record: RunRecord, undefined: dict[str, str]) -> dict[str, Any]:
    """The section of the held-out benchmarks, if there are any, with what was evaluated of them."""
    if record.held_out is None:
        return {}
    found = held_out_metrics(record.held_out, undefined)
    return {
        "held_out": {
            name: {**record.outcome["held_out"][name], **values} for name, values in found.items()
        }
    }


def _seconds(record: RunRecord) -> dict[str, float]:
    total: dict[str, float] = dict(record.wall_seconds)
    for part in (*(payload["seconds"] for payload in record.committed), record.outcome["seconds"]):
        for phase, seconds in part.items():
            total[phase] = total.get(phase, 0.0) + seconds
    return {phase: round(seconds, 3) for phase, seconds in total.items()}


def write_so_far(experiment: ExperimentConfig, committed: Sequence[Mapping[str, Any]]) -> None:
    """Write the tables of a live stream that goes on, for a report of what there is."""
    tasks = tuple(payload["task"] for payload in committed)
    _write_tables(RunRecord(experiment, {}, tasks, committed, {}, pa.table({}), {}))


def _write_tables(record: RunRecord) -> None:
    """The accuracy matrix and the training log."""
    folder = RunDirectory.of(record.experiment).folder
    matrices = [record.matrix, *([] if record.held_out is None else [record.held_out])]
    columns = chain.from_iterable(matrix.columns() for matrix in matrices)
    folder.write_tables(ACCURACY_MATRIX, MATRIX_SCHEMA, matrix_tables(columns))
    folder.write_table(TRAINING_LOG, record.training_log)


def finish_run(
    experiment: ExperimentConfig,
    benchmark: Mapping[str, Any],
    tasks: tuple[str, ...],
    committed: Sequence[Mapping[str, Any]],
    access_log: pa.Table,
    wall_seconds: Mapping[str, float],
    quarantined: Sequence[Fault] = (),
) -> tuple[dict[str, Any], AccuracyMatrix]:
    """Write the tables and metrics.json of a run whose stream has ended.

    `benchmark` is what `data_provenance` says of it. Returns the metrics and the accuracy matrix.
    Raises ReplayRefusedError when the access log shows that a past task's training rows were read
    by a method that does not declare it.
    """
    folder = RunDirectory.of(experiment).folder
    record = RunRecord(
        experiment,
        benchmark,
        tasks,
        committed,
        folder.read_json(OUTCOME),
        access_log,
        wall_seconds,
        quarantined,
        folder.read_table(RANKS) if folder.exists(RANKS) else None,
    )
    _write_tables(record)
    metrics = assemble_metrics(record)
    if len(tasks) > MOST_IN_JSON:
        folder.write_table(TASK_SIMILARITY, _similarity_table(record))
    folder.write_table(ACCESS_LOG, access_log)
    write_quarantine(folder.uri, quarantined)
    folder.write_json(METRICS, metrics)
    if metrics["replayed_rows"] and not metrics["replays"]:
        raise ReplayRefusedError(
            f"{metrics['replayed_rows']} rows of past tasks' training splits were read; see "
            f"{folder.file_uri(ACCESS_LOG)}"
        )
    return metrics, record.matrix

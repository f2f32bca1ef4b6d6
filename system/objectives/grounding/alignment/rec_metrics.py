"""The content of metrics.json of an alignment."""

import importlib.metadata
import platform
from typing import Any

from system.objectives.grounding.alignment.alignment_files import AlignmentResult
from system.storage.run_directory import MODEL_LOG
from system.stream.run_results import VERSIONS


def rec_metrics(run: str, result: AlignmentResult) -> dict[str, Any]:
    """Recalls in percent over the first split's expressions lead; undefined ones are null.

    `rec_r1`, `rec_r5`, `rec_r10` and `rec_ub` (any box) count a hit from IoU 0.5 on, those ending
    in `_giou` from GIoU 0.5 on, as the papers' released code does.
    """
    first = result.stage["splits"][0]
    return {
        "run": run,
        "stage": "alignment",
        "method": result.method["name"],
        "grounder": {"name": result.grounder, "fingerprint": result.grounder_fingerprint},
        "benchmark": {"name": result.benchmark, "fingerprint": result.benchmark_fingerprint},
        "seed": result.seed,
        "protocol": "corrected",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONS},
        },
        "evaluation": {"splits": result.stage["splits"], "transform": result.transform},
        "tasks": list(result.tasks),
        **result.trained[first]["all"],
        "average": result.trained[first]["average"],
        "zero_shot": {
            **result.zero_shot[first]["all"],
            "average": result.zero_shot[first]["average"],
            "splits": result.zero_shot,
        },
        "splits": result.trained,
        "train_expressions": result.train_expressions,
        "trainable_parameters": result.trainable_parameters,
        "denoising_steps": result.denoising_steps,
        MODEL_LOG: list(result.log),
        "wall_seconds": result.wall_seconds,
        "undefined": result.undefined,
    }

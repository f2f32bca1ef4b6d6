"""A grounding stream small enough for tests: disks and squares, a random grounder."""

from pathlib import Path

from tests.diff_prompt.mask_files import TASKS, prepare_shapes
from tests.grounders.small_glip import write_small_glip


def prepare_small_rec(root: Path) -> None:
    """Write task shards and grounder under `root`."""
    prepare_shapes(root)
    write_small_glip(root / "glip", ["the", "disk", "square"])


def rec_overrides(
    root: Path, run_name: str, *more: str, experiment: str = "rec_stream"
) -> list[str]:
    """Overrides of a run on what `prepare_small_rec` wrote."""
    return [
        f"experiment={experiment}",
        "benchmark.name=shapes",
        f"benchmark.tasks=[{','.join(TASKS)}]",
        f"grounder.path={root / 'glip'}",
        f"storage_path={root / 'runs'}",
        f"data_path={root}",
        f"run_name={run_name}",
        "stage.epochs=3",
        "stage.batch_size=4",
        "stage.train_expressions=null",
        "evaluation.batch_size=5",
        *more,
    ]


def joined_overrides(root: Path, run_name: str, *more: str) -> list[str]:
    """Overrides of a run that learns both tasks as one."""
    sizes = ("stage.batch_size=8", "evaluation.expressions=null")
    return rec_overrides(root, run_name, *sizes, *more, experiment="rec")

"""`promptide export`: results in the form of other programs."""

import json
from collections.abc import Sequence
from pathlib import PurePath

from rich.console import Console

from system.data.datasets.lpi_release import CATEGORIES
from system.errors import ConfigError
from system.results.accuracy_matrix import AccuracyMatrix
from system.results.res_file import to_res
from system.storage.files import Folder
from system.storage.run_directory import METRICS, MatrixFile
from system.uris import absolute, parent

NUMBERS = "--numbers"
USAGE = f"promptide export res RUN FILE [{NUMBERS}]"


def export(words: Sequence[str], file: str | None, console: Console) -> None:
    """Write a run's recalls as LPI's `res/<date>.json`.

    RUN is a run directory; with `--numbers` tasks are keyed by their categories' numbers. Raises
    ConfigError for other words, StorageError, DataError for a run without such recalls.
    """
    kind, *rest = [word for word in words if word != NUMBERS] or [""]
    if kind != "res" or len(rest) != 2 or file is not None:
        raise ConfigError(f"export {' '.join(words)}: write `{USAGE}`")
    run, target = Folder.of(rest[0]), absolute(rest[1])
    matrix = AccuracyMatrix.from_columns(MatrixFile.of(run))
    keys = _numbers(matrix.tasks) if NUMBERS in words else None
    content = json.dumps(to_res(matrix, keys), indent=4)
    Folder.of(parent(target)).write(PurePath(target).name, content.encode())
    console.print(f"res file: {target}", soft_wrap=True)
    gallery = _gallery(run)
    if gallery not in (None, "seen"):
        console.print(
            f"evaluation.gallery={gallery} of this run; the released code searches the tasks seen "
            "so far (evaluation.gallery=seen), so these recalls compare with none of its own",
            soft_wrap=True,
        )


def _numbers(tasks: Sequence[str]) -> dict[str, str]:
    unknown = [task for task in tasks if task not in CATEGORIES]
    if unknown:
        raise ConfigError(f"{NUMBERS}: {', '.join(unknown)} is none of the release's categories")
    return {task: str(CATEGORIES[task]) for task in tasks}


def _gallery(run: Folder) -> str | None:
    if not run.exists(METRICS):
        return None
    gallery: str | None = run.read_json(METRICS).get("evaluation", {}).get("gallery")
    return gallery

"""`promptide import`: results and weights of other programs in the form that promptide reads."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from rich.console import Console

from system.cli.import_weights import KINDS as WEIGHTS
from system.cli.import_weights import USAGE as USAGE_OF_WEIGHTS
from system.cli.import_weights import import_weights
from system.data.datasets.lpi_release import CATEGORIES
from system.errors import ConfigError
from system.report.pages.run_page import write_report
from system.report.terminal.tables import print_summaries
from system.results.accuracy_matrix import AccuracyMatrix
from system.results.res_file import from_res
from system.storage.files import Folder
from system.storage.run_directory import ACCURACY_MATRIX, MATRIX_SCHEMA, METRICS, matrix_tables
from system.stream.run_results import summaries
from system.uris import absolute, parent

RES = "res"
USAGE = f"promptide import {RES} FILE [FOLDER]"
_CATEGORY_NUMBERS = {str(number): task for task, number in CATEGORIES.items()}


def import_(words: Sequence[str], file: str | None, console: Console) -> None:
    """Import results or weights, by the kind that the first word names.

    Raises ConfigError for another kind, or words that do not fit.
    """
    kind, *rest = words or [""]
    if kind in WEIGHTS:
        import_weights(words, file, console)
    elif kind == RES and 1 <= len(rest) <= 2 and file is None:
        import_res(rest[0], rest[1] if rest[1:] else None, console)
    else:
        raise ConfigError(f"import {' '.join(words)}: write `{USAGE}` or `{USAGE_OF_WEIGHTS}`")


def import_res(file: str, folder: str | None, console: Console) -> None:
    """Print promptide's metrics of LPI's `res/<date>.json`, and write them to a folder if given.

    The folder gets accuracy_matrix.parquet, metrics.json and report.html as a run's directory has.
    """
    source = absolute(file)
    content = Folder.of(parent(source)).read_json(PurePath(source).name)
    matrix = from_res(content, file, _CATEGORY_NUMBERS)
    metrics = _metrics(matrix, file)
    print_summaries(metrics, console)
    if folder is not None:
        out = Folder.of(folder)
        out.write_tables(ACCURACY_MATRIX, MATRIX_SCHEMA, matrix_tables(matrix.columns()))
        out.write_json(METRICS, metrics)
        console.print(f"report: {write_report(out.uri)}", soft_wrap=True)


def _metrics(matrix: AccuracyMatrix, source: str) -> dict[str, Any]:
    undefined: dict[str, str] = {}
    return {
        "run": PurePath(source).stem,
        "imported": source,
        "tasks": list(matrix.tasks),
        **summaries(matrix, undefined),
        "undefined": undefined,
    }

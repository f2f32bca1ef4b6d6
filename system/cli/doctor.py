"""`promptide doctor`: what a benchmark needs, what of it is there, and where to get the rest."""

from collections.abc import Sequence

from rich.console import Console

from system.config.compose import composed_values, given_options
from system.config.parse import parse_dataclass
from system.config.schema import BenchmarkConfig
from system.data.prepare.diagnosis import examine
from system.errors import DataError
from system.report.terminal.diagnosis_table import print_diagnosis
from system.storage.data_directory import SETTING
from system.storage.files import Folder


def doctor(overrides: Sequence[str], file: str | None, console: Console) -> None:
    """Print what is there of a benchmark's files, where the rest is to be had, and the room.

    Raises: DataError if something is missing that is not prepared yet.
    """
    values = composed_values(overrides, file)
    benchmark = parse_dataclass(BenchmarkConfig, values.get("benchmark") or {}, "config.benchmark")
    folder = Folder.of(str(values["data_path"]), SETTING).child(benchmark.name)
    given = given_options(overrides, file)
    diagnosis = examine(benchmark.dataset, benchmark.options, folder, values, given)
    print_diagnosis(benchmark.name, folder.location, diagnosis, console)
    if diagnosis.missing and not diagnosis.prepared:
        findings = diagnosis.findings or ()
        unset = "" if benchmark.options.get("root") else ": benchmark.options.root is not set"
        raise DataError(
            f"benchmark {benchmark.name!r}: {len(diagnosis.missing)} of {len(findings)} files and "
            f"folders are missing or incomplete{unset}"
        )

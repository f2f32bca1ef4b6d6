"""Digests of what small jobs leave, to show that a change of the code changed no result.

    python -m tests.result_digests OUT.json [--only NAME ...] [--work DIR]
    python -m tests.result_digests --compare OLD.json NEW.json [--only NAME ...]

The first form runs each case of `CASES` by promptide's own commands, each command in a process of
its own, and writes what came out: digests of the learned tensors, and all values by name. The
second prints what differs between two such files, and exits with 1 if anything does.

Nothing that a clock, a path or a run's name decides is in there. Values hold to the bit for one
kind of machine and one set of package versions, so both files have to come from the same. It takes
about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "import sys; from system.app import main; sys.exit(main())"

Leaf = str | int | float | bool | None
#: A case's digests and figures by name.
Found = dict[str, Leaf]

#: Parts of a key, between underscores, of time, speed, a place or a version, or of all of these.
CLOCK_AND_PLACE = {
    "second", "seconds", "time", "timestamp", "date", "path", "paths", "uri", "host", "hostname",
    "version", "versions", "seal",
}  # fmt: skip
NAMES = {"run", "run_name"}  # keys that hold a run's name
#: Columns of trials.parquet with how a trial was named or asked for, or words for a page.
LEFT_OUT_COLUMNS = {"trial", "overrides", "reason", "shown"}

TASKS = "benchmark.tasks=[appliance,sports]"
#: A benchmark of two tasks alone: the models of Diff-Prompt learn from all tasks there are.
TWO_TASKS = (
    "benchmark.name=two_tasks",
    "+benchmark.options.tasks=[appliance,sports]",
    "benchmark.options.train=120",
    "+benchmark.options.val=60",
    "+benchmark.options.test=80",
)
#: Diff-Prompt's first two models, the same ones for all cases; of one epoch with small batches, as
#: with few steps no mask would come out at all.
GENERATOR = (
    "method.generator.epochs=1",
    "method.generator.batch_size=16",
    "method.generator.evaluated=128",
    "method.generator.mask_vae.epochs=1",
    "method.generator.mask_vae.batch_size=8",
)


@dataclass(frozen=True)
class Case:
    """A job and what is looked at afterwards."""

    command: str
    overrides: tuple[str, ...]
    prepare: tuple[str, ...]  # overrides of `promptide prepare`
    runs: tuple[str, ...] = ("",)  # run directories, by what follows the case's name in theirs
    models: bool = False  # whether it makes models that other runs may share


CASES = {
    "lpi": Case(
        "run",
        ("experiment=demo", "seed=0", "benchmark.tasks=[appliance,sports,outdoor,electronic]"),
        ("experiment=demo",),
    ),
    "rec_stream": Case(
        "run",
        (
            "experiment=rec_stream",
            *TWO_TASKS,
            TASKS,
            "stage.epochs=2",
            "stage.train_expressions=192",
            "evaluation.expressions=60",
        ),
        ("experiment=rec_stream", *TWO_TASKS),
    ),
    "diff_prompt": Case(
        "run",
        (
            "experiment=diff_prompt_demo",
            *TWO_TASKS,
            TASKS,
            *GENERATOR,
            "stage.epochs=1",
            "stage.train_expressions=96",
            "evaluation.expressions=40",
        ),
        ("experiment=diff_prompt_demo", *TWO_TASKS),
        ("", "-prompt_generator", "-prompt_generator-mask_vae"),
        models=True,
    ),
    # after diff_prompt, whose models it finds
    "continual_diff_prompt": Case(
        "run",
        (
            "experiment=continual_diff_prompt",
            *TWO_TASKS,
            TASKS,
            *GENERATOR,
            "stage.epochs=1",
            "stage.train_expressions=96",
            "evaluation.expressions=40",
        ),
        ("experiment=continual_diff_prompt", *TWO_TASKS),
    ),
    # without ASHA: what a stopped trial leaves depends on how soon the decision reaches it
    "sweep": Case(
        "sweep",
        ("tune=lpi", TASKS, "tune.samples=2", "tune.scheduler=none", "stage.epochs=1"),
        ("tune=lpi",),
    ),
}


def run_case(name: str, work: Path) -> Found:
    """Run a case under `work` and look at what it left.

    Raises RuntimeError with the end of the output if a command fails.
    """
    case = CASES[name]
    promptide(work, f"{name}-prepare", "prepare", case.prepare)
    promptide(work, name, case.command, (*case.overrides, f"run_name={name}"))
    found: Found = {}
    runs = work / "runs"
    for suffix in case.runs:
        found |= under(f"{case.command}{suffix}", of_run(runs / f"{name}{suffix}"))
    if case.command == "sweep":
        found |= under("trials", of_trials(runs / name / "trials.parquet"))
        for trial in sorted((runs / name / "trials").glob(f"{name}-*")):
            found |= under(trial.name, of_run(trial))
    if case.models:
        found |= under("models", of_models(work / "data" / "models"))
    return found


def promptide(work: Path, log: str, command: str, overrides: Sequence[str]) -> None:
    """Run one command of this checkout with its storage under `work`.

    Raises RuntimeError with the end of the output if it fails.
    """
    places = [f"storage_path={work / 'runs'}", f"data_path={work / 'data'}"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    ahead = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([ahead] if ahead else [])])
    environment["TOKENIZERS_PARALLELISM"] = "false"
    file = work / "logs" / f"{log}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        status = subprocess.run(
            [sys.executable, "-c", PROGRAM, command, *overrides, *places],
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
        ).returncode
    if status:
        end = file.read_text(errors="replace")[-4000:]
        raise RuntimeError(f"promptide {command} {' '.join(overrides)} ended with {status}:\n{end}")


def of_run(folder: Path) -> Found:
    """What a run directory holds: of a stream or of a model, or a sweep's, which holds neither."""
    found: Found = {}
    for file in sorted((folder / "adapters").glob("*.safetensors")):
        found[f"adapters/{file.name}"] = tensors_digest(file)
    matrix = folder / "accuracy_matrix.parquet"
    if matrix.exists():
        values = of_matrix(matrix)
        found["accuracy_matrix"] = digest(f"{key} {value!r}" for key, value in values.items())
        found |= under("accuracy_matrix", values)
    log = folder / "training_log.parquet"
    if log.exists():
        found |= flat(pq.read_table(log).to_pylist(), "training_log")
    metrics = folder / "metrics.json"
    if metrics.exists():
        found |= flat(json.loads(metrics.read_text()), "metrics")
    return found


def of_matrix(file: Path) -> Found:
    """The values of an accuracy matrix by trained task, evaluated task and metric."""
    columns = ["trained_index", "evaluated_index", "metric", "value"]
    rows = pq.read_table(file, columns=columns).to_pylist()
    values = [tuple(row[column] for column in columns) for row in rows]
    return {
        f"{trained}.{evaluated}.{metric}": value
        for trained, evaluated, metric, value in sorted(values, key=lambda row: row[:3])
    }


def of_trials(file: Path) -> Found:
    """The values of a sweep's trials by trial config, seed and column."""
    found: Found = {}
    for row in pq.read_table(file).to_pylist():
        kept = {key: value for key, value in row.items() if key not in LEFT_OUT_COLUMNS}
        found |= flat(kept, f"{row['setting']}-seed{row['seed']}")
    return found


def of_models(folder: Path) -> Found:
    """Digests of the models that runs share; their folders' names hold settings and data too."""
    by_name: dict[str, list[str]] = {}
    for file in folder.rglob("*.safetensors"):
        name = re.sub(r"-[0-9a-f]{16,}", "", file.relative_to(folder).as_posix())
        by_name.setdefault(name, []).append(tensors_digest(file))
    return {
        f"{name}#{number}" if number else name: value
        for name, values in sorted(by_name.items())
        for number, value in enumerate(sorted(values))
    }


def tensors_digest(file: Path) -> str:
    """Of the tensors by name, type, shape and content, in whatever order the file has them."""
    data, sha = file.read_bytes(), hashlib.sha256()
    start = 8 + int.from_bytes(data[:8], "little")  # the tensors follow a header of JSON
    header: dict[str, Any] = json.loads(data[8:start])
    header.pop("__metadata__", None)
    for name, tensor in sorted(header.items()):
        first, end = tensor["data_offsets"]
        sha.update(f"{name}\n{tensor['dtype']}\n{tensor['shape']}\n".encode())
        sha.update(data[start + first : start + end])
    return sha.hexdigest()


def digest(lines: Iterable[str]) -> str:
    """Of text, line by line."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def flat(values: Any, where: str) -> Found:
    """All values of nested mappings and lists by dotted path, but those that `left_out` says."""
    return dict(_leaves(values, where))


def _leaves(values: Any, where: str) -> Iterator[tuple[str, Leaf]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            if not left_out(str(key)):
                yield from _leaves(value, f"{where}.{key}")
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from _leaves(value, f"{where}.{index}")
    else:
        assert values is None or isinstance(values, str | int | float), f"{where}: {values!r}"
        # of a path only its last name: where a checkout lies is no result
        yield (
            where,
            Path(values).name if isinstance(values, str) and os.path.isabs(values) else values,
        )


def left_out(key: str) -> bool:
    """Whether a key's value may differ between two runs with the same results."""
    return key in NAMES or not CLOCK_AND_PLACE.isdisjoint(key.lower().split("_"))


def under(prefix: str, values: Mapping[str, Leaf]) -> Found:
    """The same under longer names."""
    return {f"{prefix}/{key}": value for key, value in values.items()}


def compare(old: Mapping[str, Found], new: Mapping[str, Found]) -> list[str]:
    """A line for each case and each name that only one of the two has, or with another value."""
    lines = []
    for case in dict.fromkeys([*old, *new]):
        if case not in old or case not in new:
            lines.append(f"{'removed' if case in old else 'added'}: case {case}")
            continue
        one, other = old[case], new[case]
        for name in dict.fromkeys([*one, *other]):
            if name not in other:
                lines.append(f"removed: {case}: {name} = {one[name]!r}")
            elif name not in one:
                lines.append(f"added: {case}: {name} = {other[name]!r}")
            elif repr(one[name]) != repr(other[name]):  # NaN is NaN here, and 1 is not 1.0
                lines.append(f"changed: {case}: {name}: {one[name]!r} -> {other[name]!r}")
    return lines


def read(file: Path, only: Sequence[str]) -> dict[str, Found]:
    """The cases of a file, those of `only` if it names any."""
    cases: dict[str, Found] = json.loads(file.read_text())
    return {name: found for name, found in cases.items() if not only or name in only}


def record(out: Path, names: Sequence[str], work: Path) -> None:
    """Run cases under `work`; the file grows with each one."""
    cases: dict[str, Found] = {}
    for name in names:
        started = time.monotonic()
        cases[name] = run_case(name, work)
        out.write_text(json.dumps(cases, indent=1) + "\n")
        values = 0
        for key, value in cases[name].items():
            if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
                report(f"{value}  {name}: {key}")
            else:
                values += 1
        seconds = time.monotonic() - started
        report(f"{name}: {values} values beside these digests, {seconds:.0f} s")


def report(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all went well, 1 if two files differ, 2 on a wrong call."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.result_digests", description="Digests of what small jobs leave."
    )
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT.json", help="what is written")
    parser.add_argument("--only", nargs="+", default=[], choices=list(CASES), metavar="NAME")
    parser.add_argument("--work", type=Path, help="an empty folder, which is kept")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD.json", "NEW.json"))
    given = parser.parse_args(arguments)
    if (given.out is None) == (given.compare is None):
        parser.error("give either OUT.json or --compare OLD.json NEW.json")
    if given.compare is not None:
        old, new = (read(file, given.only) for file in given.compare)
        if not old and not new:
            parser.error("neither file has any of these cases")
        differences = compare(old, new)
        for line in differences:
            report(line)
        same = f"no difference in {sum(map(len, old.values()))} names"
        report(f"{len(differences)} differences" if differences else same)
        return 1 if differences else 0
    names = [name for name in CASES if not given.only or name in given.only]
    if given.work is None:
        with tempfile.TemporaryDirectory() as work:
            record(given.out, names, Path(work).resolve())
        return 0
    if given.work.exists() and any(given.work.iterdir()):
        parser.error(f"--work {given.work} is not empty: a run that is there is not made again")
    given.work.mkdir(parents=True, exist_ok=True)
    record(given.out, names, given.work.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())

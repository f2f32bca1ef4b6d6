"""Held-out benchmarks: evaluated before and after every task, never trained.

What a frozen model could do and still can on them is zero-shot retention, as in ZSCL (arXiv
2303.06628), MTIL and X-TAIL. A held-out query searches its own benchmark alone. Where the method
has a router it is routed like any other sample, among the tasks learned so far: nothing tells the
model that it belongs to none of them. Training, router, similarities and the stream's own rows do
not depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from system.config.compose import CONFIG_DIRECTORY
from system.config.schema import ExperimentConfig
from system.data.prepare.origin import prepared_at
from system.data.shards.image_digests import image_digests
from system.data.shards.manifest import Manifest, SplitHandle
from system.data.shards.shard_reader import SplitReader
from system.data.shards.sound_shards import require_sound_shards
from system.errors import ConfigError, DataError
from system.methods.sharing import StreamMethod
from system.objectives.objective import OBJECTIVES, StreamWork
from system.results.accuracy_matrix import ROUTE, MatrixRow
from system.storage.data_directory import DataDirectory
from system.stream.router import Router

TEST = "test"  # what is evaluated of a benchmark that lacks the run's own evaluation split
DIGESTS = "image_digests"  # of the data path


class HeldOut:
    """The held-out benchmarks of a run, in the order of `benchmark.held_out`."""

    def __init__(self, experiment: ExperimentConfig, work: StreamWork) -> None:
        """Take in their splits, and the frozen model's part of them; every rank has to."""
        self.names = experiment.benchmark.held_out
        manifests = [held_out_manifest(experiment, name) for name in self.names]
        self.handles = [
            held_out_split(experiment, name, manifest)
            for name, manifest in zip(self.names, manifests, strict=True)
        ]
        self._fingerprints = [manifest.fingerprint for manifest in manifests]

        def opened(task: int, split: str | None = None) -> SplitHandle:
            return self.handles[task]

        self.evaluation = work.evaluation_of(opened, len(self.names), "task")

    def zero_shot(self) -> list[MatrixRow]:
        """Matrix rows of the frozen model: a benchmark's place stands for the evaluated task."""
        return self.evaluation.zero_shot()

    def after_task(
        self, trained: int, method: StreamMethod, router: Router | None
    ) -> list[MatrixRow]:
        """Matrix rows after a task; there is no right route to be counted."""
        rows = self.evaluation.after_task(trained, method, router)
        return [row for row in rows if not row.metric.startswith(ROUTE)]

    def described(self) -> dict[str, dict[str, Any]]:
        """What was evaluated, by benchmark, for the run's outcome."""
        return {
            name: {"fingerprint": fingerprint, "split": handle.split, "images": handle.rows}
            for name, fingerprint, handle in zip(
                self.names, self._fingerprints, self.handles, strict=True
            )
        }


def held_out_manifest(experiment: ExperimentConfig, name: str) -> Manifest:
    """The manifest of a held-out benchmark. Raises DataError with the command that prepares it."""
    manifest = prepared_at(DataDirectory.of(experiment).benchmark(name))
    if manifest is None:
        known = (CONFIG_DIRECTORY / "benchmark" / f"{name}.yaml").exists()
        words = f"benchmark={name}" if known else f"benchmark=GROUP benchmark.name={name}"
        raise DataError(
            f"benchmark.held_out: {name!r} is not prepared in {experiment.data_path}; run "
            f"`promptide prepare {words} data_path={experiment.data_path}` first, with the options "
            "of its files"
        )
    return manifest


def held_out_split(experiment: ExperimentConfig, name: str, manifest: Manifest) -> SplitHandle:
    """The rows of all tasks of a held-out benchmark's evaluated split, as one.

    That is the run's leading evaluation split, or "test" where the benchmark has none of that name.
    Raises ConfigError if it has neither.
    """
    wanted = list(dict.fromkeys((experiment.evaluation.splits[0], TEST)))
    for split in wanted:
        having = [entry.handle(split) for entry in manifest.tasks if split in entry.splits]
        parts = [handle for handle in having if handle.rows]
        if parts:
            return SplitHandle.joined(parts, name)
    has = dict.fromkeys(split for entry in manifest.tasks for split in entry.splits)
    raise ConfigError(
        f"benchmark.held_out: {name!r} has no image in split "
        f"{' or '.join(wanted)}: it has {', '.join(has)}"
    )


def check_held_out(experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str]) -> None:
    """Whether the held-out benchmarks can be evaluated, and are held out from these tasks.

    Raises ConfigError or DataError naming the benchmark: one that is not prepared, is trained,
    lacks the split or what the objective judges by, or holds an image whose bytes are in a task's
    training split.
    """
    names = experiment.benchmark.held_out
    if not names:
        return
    objective = OBJECTIVES.get(experiment.stage.objective)
    own = {manifest.benchmark, *(part.benchmark for part in manifest.parts)}
    handles: dict[str, SplitHandle] = {}
    for name in names:
        held_out = held_out_manifest(experiment, name)
        if name in own or held_out.fingerprint == manifest.fingerprint:
            raise ConfigError(f"benchmark.held_out: {name!r} is the benchmark that is trained")
        require_sound_shards(held_out)
        handles[name] = held_out_split(experiment, name, held_out)
        try:
            nothing = objective.check_test(experiment, handles[name])
        except DataError as error:
            nothing = str(error)
        if nothing:
            raise DataError(f"benchmark.held_out: {name!r}: {nothing}")
    _refuse_shared_images(experiment, manifest, tasks, handles)


def _refuse_shared_images(
    experiment: ExperimentConfig,
    manifest: Manifest,
    tasks: Sequence[str],
    handles: Mapping[str, SplitHandle],
) -> None:
    store = DataDirectory.of(experiment).store(DIGESTS)
    found = {name: image_digests(handle, store) for name, handle in handles.items()}
    for entry in (part for task in tasks for part in manifest.task(task).handle("train").members):
        trained = image_digests(entry, store)
        for name, digests in found.items():
            shared = np.flatnonzero(np.isin(digests, trained))
            if len(shared):
                with SplitReader(handles[name]) as reader:
                    first = next(reader.rows([int(shared[0])])).file_name
                raise DataError(
                    f"benchmark.held_out: {len(shared)} of {len(digests)} images of {name!r} "
                    f"({first!r} is one) have the bytes of training images of task "
                    f"{entry.task!r}: what is trained is not held out. Leave {name!r} out, or that "
                    "task by benchmark.tasks"
                )

"""The loop of a Ray Train worker over the whole task stream: lease, train, evaluate, commit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from system.backbones.dual_encoder import Modality
from system.config.schema import ExperimentConfig
from system.data.shards.loading import broken_images
from system.data.shards.manifest import SplitHandle
from system.engine.epochs import EpochLoop
from system.engine.provenance import device_provenance
from system.engine.whereabouts import WAIT, here
from system.engine.worker_group import WorkerGroup
from system.engine.worker_log import PhaseClock, RankLog
from system.errors import DataError, QuarantinedError
from system.methods.sharing import StreamMethod
from system.objectives.objective import OBJECTIVES, Evaluation, Worker
from system.results.accuracy_matrix import MatrixRow, plain_row
from system.results.committed_rows import CommittedRows, packed_numbers
from system.storage.adapters import AdapterFolder, require_same_backbone
from system.storage.run_directory import OUTCOME, RANKS, RunDirectory
from system.stream.given_similarity import given_similarity
from system.stream.held_out import HeldOut
from system.stream.learned_state import LearnedState, header_of
from system.stream.router import Router
from system.stream.settled import require_same_precision, settled
from system.stream.task_source import Lease, TaskSource

#: Seconds that a worker group waits for a task before its ranks look at each other again.
PATIENCE = 20.0


def continual_loop(config: dict[str, Any]) -> None:
    """Ray Train's `train_loop_per_worker`.

    `config`: {"experiment": a plain dict for ExperimentConfig, "tasks": names in stream order (a
    live stream's are met one by one), "stream": a TaskSource, "benchmark_fingerprint": str}. Ends
    when the stream has no more tasks; what only the end can tell is written once all of them are
    learned.
    """
    with here().doing("start"):
        worker = StreamWorker(
            ExperimentConfig.from_dict(config["experiment"]),
            tuple(config["tasks"]),
            config["stream"],
            config["benchmark_fingerprint"],
            WorkerGroup.join(),
        )
    with worker.log.ending():
        with here().doing("restore"):
            worker.restore()
        while (lease := worker.next_lease()) is not None:
            worker.learn(lease)
        if worker.complete:
            worker.finish()


class StreamWorker:
    """One worker's state over the stream."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        tasks: tuple[str, ...],
        stream: TaskSource,
        benchmark_fingerprint: str,
        group: WorkerGroup,
    ) -> None:
        self.group = group
        self.directory = RunDirectory.of(experiment)
        experiment = settled(experiment, self.directory, group)
        self.experiment = experiment
        self.live = experiment.stream.live
        self.joined = experiment.stream.joined
        self.tasks = () if self.live else tasks
        self.stream = stream
        # Sums depend on the number of threads: it is configured, not what the machine has.
        torch.set_num_threads(max(1, int(experiment.cluster.cpus_per_worker)))
        self.clock = PhaseClock()
        self.consumer = experiment.run_name
        self.objective = OBJECTIVES.get(experiment.stage.objective)
        self.generation: int = self.group.broadcast(self._register() if self.group.leads else None)
        self.leased: Lease | None = None
        self.rows = CommittedRows()
        self.log = RankLog(self.directory.logs, self.group.rank, self.generation)
        self.work = self.objective.work(
            Worker(
                experiment,
                experiment.inputs,
                self.group,
                self._open_test,
                self._show_evaluation,
                self.log.add,
            )
        )
        self.adapters = AdapterFolder(self.directory.adapters)
        header = replace(
            header_of(experiment, self.work.model, benchmark_fingerprint, self.tasks),
            router={} if self.joined else {"centers": experiment.evaluation.router_centers},
            precision=self.work.model.computation.precision_on(group.device),
        )
        self.learned = LearnedState(
            header,
            self.work.model,
            self.work.build_method(header),
            given_similarity(experiment),
        )
        with self.clock.phase("features"):
            self.work.add_tests(len(self.tasks))  # a live stream's come with its tasks
            named = experiment.benchmark.held_out
            self.held_out = HeldOut(experiment, self.work) if named else None

    def _register(self) -> int:
        kind = self.objective.method_kind(self.experiment)
        return self.stream.register(self.consumer, replays=kind.trains_on == "all")

    def restore(self) -> None:
        """Load what earlier worker groups of this run committed."""
        done: list[str] = self.group.broadcast(self._committed() if self.group.leads else None)
        if self.group.leads and self.adapters.count() > len(done):
            self.log.add(
                f"task {len(done)} has adapters, but no record that it was learned: it is "
                "learned again"
            )
        if not done:
            if self.group.leads:
                self.adapters.save_header(self.learned.header)
            return
        model, header = self.work.model, self.adapters.header()
        require_same_backbone(header, model.name, model.fingerprint)
        require_same_precision(header, model.computation.precision_on(self.group.device))
        for task in done if self.live else ():
            self._meet(task)
        self.learned.load(self.adapters, len(done))

    def _committed(self) -> list[str]:
        """The tasks that were committed; the next one's rows are packed as changes to theirs."""
        payloads = self.stream.committed(self.consumer)
        for payload in payloads:
            self.rows.unpack(payload["rows"])
        return [payload["task"] for payload in payloads]

    def next_lease(self) -> Lease | None:
        """The task all ranks work on next, waiting for it if need be; None at the end."""
        here().task = None
        with here().doing("lease"):
            while not self.group.broadcast(self._ready() if self.group.leads else None):
                pass  # the others must not wait in one broadcast for longer than it may take
            lease: Lease | None = self.group.broadcast(
                self.stream.lease(self.consumer, self.generation) if self.group.leads else None
            )
        return lease

    def _ready(self) -> bool:
        if self.stream.ready(self.consumer, self.generation):
            return True
        place = {"task": "", "task_index": len(self.tasks), "tasks": len(self.tasks)}
        self.stream.post_progress(self.consumer, {"phase": WAIT, **place})
        with here().doing(WAIT):
            return self.stream.ready(self.consumer, self.generation, PATIENCE)

    @property
    def complete(self) -> bool:
        """Whether all tasks are learned; not so when the run was halted before."""
        every = self.group.broadcast(self.stream.status()["tasks"] if self.group.leads else None)
        return 0 < self.learned.known_tasks == len(every)

    def _meet(self, task: str) -> None:
        """Take in the next task of a live stream."""
        self.tasks = (*self.tasks, task)
        self.learned.header = replace(self.learned.header, tasks=self.tasks)
        self.work.add_tests(1)

    def learn(self, lease: Lease) -> None:
        """Train one task, evaluate all of them, save its adapter and commit it."""
        self._begin(lease)
        with self._skipping_broken_images(lease):
            similarity, features = self._take_in(lease)
            log = self._train(lease, similarity, features) if self._learns(lease) else []
        if self.group.leads:
            self.stream.trained(self.consumer, self.generation, lease.task)
        rows, held_out = self._evaluate(lease), self._evaluate_held_out(lease)
        if self.group.leads:
            with here().doing("commit"):
                self._commit(lease, rows, log, similarity, held_out)
        self.log.publish()

    def _begin(self, lease: Lease) -> None:
        here().task = lease.task
        self.leased = lease
        self.log.add(f"task {lease.index} {lease.task}: leased")
        if self.live:
            self._meet(lease.task)

    def _take_in(self, lease: Lease) -> tuple[Tensor, Mapping[Modality, Tensor]]:
        """Add the task to router, similarities and method.

        Returns the tasks' similarities (K, K), and the task's unprompted training features (n, P).
        """
        features: Mapping[Modality, Tensor] = {}
        if self.joined:  # nothing to compare it with, and nowhere else to route to
            self.learned.similarities.add(torch.ones(1))
        else:
            features = self._compare(lease)
        self.learned.method.begin_task(lease.index, self.learned.model)
        return self.learned.similarities.matrix(), features

    def _compare(self, lease: Lease) -> dict[Modality, Tensor]:
        """Unprompted training features, and of them what tells the task from others."""
        self._show("features", lease)
        with self.clock.phase("features"):
            images, texts = self.work.training_features(self._open(lease.task, "train"))
            # Another machine may round a name's feature otherwise: all take rank 0's.
            entry = self.learned.similarity_entry(images, texts) if self.group.leads else None
            self.learned.similarities.add(self.group.broadcast(entry))
            self._add_to_router(lease.index, images, texts)
        return {"vision": images, "text": texts}

    def _evaluate(self, lease: Lease) -> list[MatrixRow]:
        """The matrix rows that this task adds: after it, and of the frozen model where due."""
        self._show("evaluate", lease)
        evaluation, method = self.work.evaluation, self.learned.method
        rows: list[MatrixRow] = []
        with self.clock.phase("evaluate"):
            if lease.index == 0 or self.live:
                # Of a live stream's tasks each has its row once it is there.
                known = evaluation.zero_shot()
                rows += [r for r in known if not self.live or r.evaluated_index == lease.index]
            if self._learns(lease) or method.trains_on == "nothing":
                rows += evaluation.after_task(lease.index, method, self.learned.router)
        return rows

    def _evaluate_held_out(self, lease: Lease) -> list[MatrixRow]:
        """The same of the held-out benchmarks, which are all there from the start."""
        if self.held_out is None:
            return []
        method = self.learned.method
        with self.clock.phase("evaluate"):
            rows = self.held_out.zero_shot() if lease.index == 0 else []
            if self._learns(lease) or method.trains_on == "nothing":
                rows += self.held_out.after_task(lease.index, method, self.learned.router)
        return rows

    def _learns(self, lease: Lease) -> bool:
        learns: bool = self.learned.method.learns_at(lease.index, len(self.tasks))
        return learns

    @contextmanager
    def _skipping_broken_images(self, lease: Lease) -> Iterator[None]:
        """Quarantine training images that do not decode, if the run is to go on without them.

        Raises QuarantinedError where a DataError in the block was of images that were not known to
        be broken: who starts again reads the others alone. Else the error stands: a broken shard,
        say, is no image's fault.
        """
        try:
            yield
        except DataError as error:
            if self.experiment.stage.on_error == "stop":
                raise
            joint = self.learned.method.trains_on == "all"
            if not sum(map(self._quarantine, self.tasks if joint else (lease.task,))):
                raise
            raise QuarantinedError(f"{error}; it was quarantined") from error

    def _quarantine(self, task: str) -> int:
        """Look through a task's training images; how many are broken that were not known to be."""
        broken = broken_images(self._open(task, "train"))
        for fault in broken.values():
            self.log.add(f"quarantined: {fault.reason}")
        self.log.publish()
        return self.stream.quarantine(self.consumer, self.generation, task, "train", broken)

    def finish(self) -> None:
        """Write what only the end of the stream can tell."""
        with here().doing("finish"):
            self._finish()

    def _finish(self) -> None:
        method, router = self.learned.method, self.learned.router
        with self.clock.phase("evaluate"):
            outcome = final_outcome(self.work.evaluation, method, router, live=self.live)
            outcome |= self.work.outcome(method, router)
        if self.held_out is not None:
            outcome["held_out"] = self.held_out.described()
        if self.group.leads:
            self.directory.folder.write_table(
                self.work.examples_file, self.work.examples(self.tasks)
            )
            self.directory.folder.write_table(RANKS, self.work.ranks(self.tasks))
            self.directory.folder.write_json(
                OUTCOME,
                {
                    "backbone": self.work.model.name,
                    "backbone_fingerprint": self.work.model.fingerprint,
                    "transform": self.work.transform,
                    "device": device_provenance(self.group.device),
                    **outcome,
                    "seconds": self.clock.take(),
                },
            )

    def _train(
        self, lease: Lease, similarity: Tensor, features: Mapping[Modality, Tensor]
    ) -> list[dict[str, Any]]:
        """Train the leased task, or all tasks' images at once; the log's rows, one per epoch.

        Then the method takes in the task, whose unprompted training `features` (n, P) these are,
        for the tasks after it: where all are joined there is none.
        """
        joint = self.learned.method.trains_on == "all"
        training = self.work.training(
            lease,
            self.learned.method,
            similarity,
            open_train=self._open_all if joint else lambda: self._open(lease.task, "train"),
            show=lambda progress: self._show("train", lease, **progress),
        )
        with self.clock.phase("train"):
            log = EpochLoop(training, self.directory.folder, self.log).run()
            if not self.joined:
                training.end(features)
        return log

    def _open_all(self) -> SplitHandle:
        """The training images of all tasks, one task after the other."""
        return SplitHandle.joined([self._open(task, "train") for task in self.tasks])

    def _add_to_router(self, index: int, images: Tensor, texts: Tensor) -> None:
        router = self.learned.router
        if router is None:
            return
        centers = None
        if self.group.leads:
            router.add_task(index, images, texts)
            centers = router.centers_of(index)
        # Another machine's k-means may round otherwise: all take rank 0's centres.
        centers = self.group.broadcast(centers)
        if not self.group.leads:
            router.restore_task(index, centers)

    def _commit(
        self,
        lease: Lease,
        rows: list[MatrixRow],
        log: list[dict[str, Any]],
        similarity: Tensor,
        held_out: list[MatrixRow],
    ) -> None:
        name = self.adapters.save_task(lease.index, self.learned.task_state(lease.index))
        if self.live:
            self.adapters.save_header(self.learned.header)
        attracts = self.learned.method.attracts(similarity)

        def row_of_task(matrix: Tensor) -> NDArray[Any]:
            return np.asarray(matrix[lease.index].cpu())

        payload = {
            "task": lease.task,
            "adapter": name,
            "rows": self.rows.pack(rows),
            "log": log,
            "similarity": packed_numbers(row_of_task(similarity)),
            "attracts": None if attracts is None else packed_numbers(row_of_task(attracts)),
            "seconds": self.clock.take(),
        }
        if self.held_out is not None:
            payload["held_out"] = [
                {**plain_row(row), "held_out": self.held_out.names[row.evaluated_index]}
                for row in held_out
            ]
        self.stream.commit(self.consumer, self.generation, lease.task, payload)
        if self.learned.method.shares_parameters and lease.index > 0:
            # Only now that the newest task's file counts can the one before go without them.
            earlier = lease.index - 1
            self.adapters.save_task(earlier, self.learned.task_state(earlier))

    def _open_test(self, task: int, split: str | None = None) -> SplitHandle:
        return self._open(self.tasks[task], split or self.experiment.evaluation.splits[0])

    def _open(self, task: str, split: str) -> SplitHandle:
        return self.stream.open_split(self.consumer, self.generation, self.group.rank, task, split)

    def _show(self, phase: str, lease: Lease, **progress: Any) -> None:
        here().move()
        if self.group.leads:
            place = {"task": lease.task, "task_index": lease.index, "tasks": len(self.tasks)}
            self.stream.post_progress(self.consumer, {"phase": phase, **place, **progress})

    def _show_evaluation(self, *_: object) -> None:
        """Say that it goes on, wherever in an evaluation; a halted run ends here."""
        if self.leased is not None:
            self._show("evaluate", self.leased)


def final_outcome(
    evaluation: Evaluation, method: StreamMethod, router: Router | None, *, live: bool
) -> dict[str, Any]:
    """The part of outcome.json that the evaluation and the method know.

    "matrix" holds all rows of a `live` stream over all its tasks, packed, as if these had been
    given at the start. It is None where the rows that were committed are so already, and for a
    method that keeps no older state: its rows are those of the tasks that were learned at the time.
    """
    last = evaluation.tasks - 1
    matrix = None
    if live and (method.needs_router or method.trains_on == "nothing"):
        rows = CommittedRows()
        every = evaluation.all_rows(method, router)
        matrix = [packed for after in every for packed in rows.pack(after)]
    else:
        # Encodes nothing new, unless this worker group started after the last commit.
        evaluation.after_task(last, method, router)
    oracle = evaluation.oracle(last, method)
    return {
        "evaluated": evaluation.described(),
        "routed": [] if router is None else list(router.modalities),
        "matrix": matrix,
        "oracle": [plain_row(row) for row in oracle],
        "similarity_source": method.similarity_source,
        "similarity_centred": method.similarity_centred,
        "replays": method.trains_on == "all",
        "trainable_parameters": method.parameters_in_all(),
        "trainable_parameters_per_task": method.parameters_per_task(),
    }

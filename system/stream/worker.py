"""The loop of a Ray Train worker over the whole task stream: lease, train, evaluate, commit."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from system.backbones.dual_encoder import Modality
from system.config.schema import ExperimentConfig
from system.data.shards.faults import Fault
from system.data.shards.manifest import SplitHandle
from system.engine.epochs import EpochLoop
from system.engine.phase_clock import PhaseClock
from system.engine.rank_log import RankLog
from system.engine.worker_group import WorkerGroup
from system.objectives.objective import OBJECTIVES, Worker
from system.results.accuracy_matrix import MatrixRow
from system.storage.adapters import AdapterFolder, AdapterHeader, require_same_backbone
from system.storage.run_directory import OUTCOME, RunDirectory
from system.stream.given_similarity import given_similarity
from system.stream.quarantine import putting_aside
from system.stream.stream_end import final_figures, plain_row
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
    worker = StreamWorker(
        ExperimentConfig.from_dict(config["experiment"]),
        tuple(config["tasks"]),
        config["stream"],
        config["benchmark_fingerprint"],
    )
    with worker.log.ending():
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
    ) -> None:
        self.experiment = experiment
        self.live = experiment.stream.live
        self.joined = experiment.stream.joined
        self.tasks = () if self.live else tasks
        self.stream = stream
        self.group = WorkerGroup.join()
        # Sums depend on the number of threads: it is configured, not what the machine has.
        torch.set_num_threads(max(1, int(experiment.cluster.cpus_per_worker)))
        self.clock = PhaseClock()
        self.consumer = experiment.run_name
        self.objective = OBJECTIVES.get(experiment.stage.objective)
        self.generation: int = self.group.broadcast(self._register() if self.group.leads else None)
        self.leased: Lease | None = None
        self.work = self.objective.work(
            Worker(
                experiment,
                experiment.protocol,
                self.group,
                self._open_test,
                self._show_evaluation,
            )
        )
        self.directory = RunDirectory.of(experiment)
        self.log = RankLog(self.directory.logs, self.group.rank, self.generation)
        self.adapters = AdapterFolder(self.directory.adapters)
        header = AdapterHeader(
            backbone=self.work.model.name,
            backbone_fingerprint=self.work.model.fingerprint,
            method=dict(experiment.method),
            benchmark=experiment.benchmark.name,
            benchmark_fingerprint=benchmark_fingerprint,
            protocol=experiment.protocol,
            seed=experiment.seed,
            tasks=self.tasks,
            router={} if self.joined else {"centers": experiment.evaluation.router_centers},
        )
        self.learned = self.work.learned(header, given_similarity(experiment.benchmark))
        with self.clock.phase("features"):
            self.work.add_tests(len(self.tasks))  # a live stream's come with its tasks

    def _register(self) -> int:
        kind = self.objective.method_kind(self.experiment)
        return self.stream.register(self.consumer, replays=kind.trains_on == "all")

    def restore(self) -> None:
        """Load what earlier worker groups of this run committed."""
        payloads = self.group.broadcast(
            self.stream.committed(self.consumer) if self.group.leads else None
        )
        if not payloads:
            if self.group.leads:
                self.adapters.save_header(self.learned.header)
            return
        model = self.work.model
        require_same_backbone(self.adapters.header(), model.name, model.fingerprint)
        for payload in payloads if self.live else ():
            self._meet(payload["task"])
        self.learned.load(self.adapters, len(payloads))

    def next_lease(self) -> Lease | None:
        """The task all ranks work on next, waiting for it if need be; None at the end."""
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
        self.stream.post_progress(self.consumer, {"phase": "wait", **place})
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
        self.log.task = lease.task
        self.leased = lease
        self.log.add(f"task {lease.index} {lease.task}: leased")
        if self.live:
            self._meet(lease.task)
        with self._putting_aside(lease):
            similarity, log = self._learn_parameters(lease)
        if self.group.leads:
            self.stream.trained(self.consumer, self.generation, lease.task)
        self._show("evaluate", lease)
        rows: list[MatrixRow] = []
        method = self.learned.method
        with self.clock.phase("evaluate"):
            if lease.index == 0 or self.live:
                # Of a live stream's tasks each has its row once it is there.
                known = self.work.evaluation.zero_shot()
                rows += [r for r in known if not self.live or r.evaluated_index == lease.index]
            if self._learns(lease) or method.trains_on == "nothing":
                rows += self.work.evaluation.after_task(lease.index, method, self.learned.router)
        if self.group.leads:
            self._commit(lease, rows, log, similarity)
        self.log.publish()

    def _learn_parameters(self, lease: Lease) -> tuple[Tensor, list[dict[str, Any]]]:
        """Router and parameters of a task: the tasks' similarities (K, K), and the epochs' log."""
        features: Mapping[Modality, Tensor] = {}
        if self.joined:  # nothing to compare it with, and nowhere else to route to
            self.learned.similarities.add(torch.ones(1))
        else:
            features = self._compare(lease)
        similarity = self.learned.similarities.matrix()
        self.learned.method.begin_task(lease.index, self.learned.model)
        if not self._learns(lease):
            return similarity, []
        return similarity, self._train(lease, similarity, features)

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

    def _learns(self, lease: Lease) -> bool:
        learns: bool = self.learned.method.learns_at(lease.index, len(self.tasks))
        return learns

    def _putting_aside(self, lease: Lease) -> AbstractContextManager[None]:
        """Put aside what does not decode of the training images that the task reads."""
        if self.experiment.stage.on_error == "stop":
            return nullcontext()

        def record(task: str, broken: dict[int, Fault]) -> int:
            for fault in broken.values():
                self.log.add(f"put aside: {fault.reason}")
            self.log.publish()
            return self.stream.quarantine(self.consumer, self.generation, task, "train", broken)

        joint = self.learned.method.trains_on == "all"
        tasks = self.tasks if joint else (lease.task,)
        return putting_aside(tasks, lambda task: self._open(task, "train"), record)

    def finish(self) -> None:
        """Write what only the end of the stream can tell."""
        method, router = self.learned.method, self.learned.router
        with self.clock.phase("evaluate"):
            figures = final_figures(self.work.evaluation, method, router, live=self.live)
            figures |= self.work.outcome(method, router)
        if self.group.leads:
            self.directory.folder.write_table(
                self.work.examples_file, self.work.examples(self.tasks)
            )
            self.directory.folder.write_json(
                OUTCOME,
                {
                    "backbone": self.work.model.name,
                    "backbone_fingerprint": self.work.model.fingerprint,
                    "transform": self.work.transform,
                    **figures,
                    "seconds": self.clock.take(),
                },
            )

    def _train(
        self, lease: Lease, similarity: Tensor, features: Mapping[Modality, Tensor]
    ) -> list[dict[str, Any]]:
        """Train the leased task, or all tasks' images at once; the log's rows, one an epoch.

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
        self, lease: Lease, rows: list[MatrixRow], log: list[dict[str, Any]], similarity: Tensor
    ) -> None:
        name = self.adapters.save_task(lease.index, self.learned.task_state(lease.index))
        if self.live:
            self.adapters.save_header(self.learned.header)
        payload = {
            "task": lease.task,
            "adapter": name,
            "rows": [plain_row(row) for row in rows],
            "log": log,
            "similarity": similarity[lease.index].tolist(),
            "seconds": self.clock.take(),
        }
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
        if self.group.leads:
            place = {"task": lease.task, "task_index": lease.index, "tasks": len(self.tasks)}
            self.stream.post_progress(self.consumer, {"phase": phase, **place, **progress})

    def _show_evaluation(self, *_: object) -> None:
        """Say that it goes on, wherever in an evaluation; a halted run ends here."""
        if self.leased is not None:
            self._show("evaluate", self.leased)

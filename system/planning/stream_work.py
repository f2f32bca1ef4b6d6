"""The work of a stream: what training, routing and evaluation take, task by task.

Counts come from the prepared shards and from the functions that the run itself cuts its batches by.
What depends on what will be learned, the samples that change their route, has bounds: an evaluated
sample is encoded again when its route changes, at most once a task.

Legend: K tasks.
"""

from collections.abc import Mapping, Sequence

from system.config.parse import parse_dataclass
from system.config.schema import ExperimentConfig
from system.data.shards.loading import read_texts, sample_counts, steps_per_epoch
from system.data.shards.manifest import Manifest, SplitHandle
from system.data.shards.split_objects import read_expressions
from system.diff_prompt.latent_source import latent_section
from system.errors import ConfigError
from system.methods.base import METHODS, Method, Objective, method_class
from system.methods.sharing import MethodKind
from system.objectives.grounding.chosen_expressions import count_chosen
from system.objectives.objective import OBJECTIVES
from system.planning.work import Mode, Passes, Trained, Work, without_nothing
from system.storage.files import filesystem_of
from system.stream.held_out import held_out_manifest, held_out_split

IMAGE, TEXT = "image tower", "text tower"
PAIR = "grounder"  # an image with an expression
DENOISER = "prompt generator"  # a denoising step of a sample
CONDITION_IMAGE, CONDITION_TEXT = "condition encoder, image", "condition encoder, text"
TRAINING = "training"
LEARNED, TOLD = "evaluation after tasks", "evaluation, task given"
NOT_OWN = ("name", "sharing", "task_start")  # keys of a method's section that are every method's


def stream_work(experiment: ExperimentConfig, manifest: Manifest, tasks: Sequence[str]) -> Work:
    """The work of a stream of these tasks.

    Raises ConfigError for a live stream, and what `StreamObjective.check_training` raises.
    """
    if experiment.stream.live:
        raise ConfigError(
            "stream.live=true: nobody knows the tasks of a stream that grows; plan it with "
            "stream.live=false and benchmark.tasks=[...] as you expect them"
        )
    objective = OBJECTIVES.get(experiment.stage.objective)
    kind = objective.method_kind(experiment)
    batches = objective.check_training(experiment, manifest, tasks)
    of = _Grounding if experiment.stage.objective == "grounding" else _Retrieval
    return of(experiment, manifest, tasks, kind, batches).work()


class _Stream:
    """What both objectives count alike."""

    objective: Objective

    def __init__(
        self,
        experiment: ExperimentConfig,
        manifest: Manifest,
        tasks: Sequence[str],
        kind: MethodKind,
        batches: Mapping[str, int],
    ) -> None:
        self.experiment = experiment
        self.kind = kind
        self.batches = batches
        self.tasks = tasks
        leading, *others = experiment.evaluation.splits
        self.train = [manifest.task(name).handle("train") for name in tasks]
        self.tests = [manifest.task(name).handle(leading) for name in tasks]
        self.others = [manifest.task(name).handle(split) for split in others for name in tasks]
        self.held_out = [
            held_out_split(experiment, name, held_out_manifest(experiment, name))
            for name in experiment.benchmark.held_out
        ]
        self.learned = [at for at in range(len(tasks)) if kind.learns_at(at, len(tasks))]

    def trainings(self, samples: Sequence[int]) -> tuple[Trained, ...]:
        """The trainings of tasks of so many samples each, or the one of all of them."""
        counts = dict(zip(self.tasks, samples, strict=True))
        if self.kind.trains_on == "all":
            counts = {" + ".join(self.tasks): sum(samples)}
        stage = self.experiment.stage
        pieces = stage.micro_batches_for(self.experiment.cluster.workers)
        return tuple(
            Trained(
                f"task {name!r}",
                batch,
                steps_per_epoch(counts[name], batch, pieces),
                stage.epochs,
            )
            for name, batch in self.batches.items()
        )

    def training_passes(self, trained: Sequence[Trained], *parts: str) -> list[Passes]:
        """Samples of all steps, and of the epoch more that a method takes to end a task."""
        passes = [
            Passes.exactly(TRAINING, part, "training", sum(one.samples for one in trained))
            for part in parts
        ]
        made = method_class(self.experiment.method["name"], self.objective)
        if made.end_task is not Method.end_task:
            once = sum(one.steps_per_epoch * one.batch for one in trained)
            passes += [
                Passes("end of each task", part, "training", 0, once, once) for part in parts
            ]
        return passes

    def evaluations(self, part: str, counts: Sequence[int], held_out: int = 0) -> list[Passes]:
        """Test samples, `counts` of each task, that are encoded under what was learned."""
        every = sum(counts) + held_out
        if not self.learned:
            return []
        if not self.kind.needs_router or self.experiment.stream.joined:
            return [Passes.exactly(LEARNED, part, "prompted", every * len(self.learned))]
        # All samples go to the first task; each that is routed well goes to its own once that is
        # learned, and is there already when its true task is told.
        own = every + sum(counts[1:])
        return [
            Passes(LEARNED, part, "prompted", every, own, every * len(self.tasks)),
            Passes(TOLD, part, "prompted", 0, 0, sum(counts)),
        ]

    def reads(self, train: float, tests: float) -> tuple[tuple[str, int, float], ...]:
        """Bytes of the splits that are read, and how often each is."""
        return (
            ("train", shard_bytes(self.train), train),
            (self.experiment.evaluation.splits[0], shard_bytes(self.tests), tests),
            *((("other splits", shard_bytes(self.others), 2.0),) if self.others else ()),
        )


class _Retrieval(_Stream):
    """Images and captions, each in its own tower."""

    objective = "retrieval"

    def work(self) -> Work:
        experiment = self.experiment
        over = experiment.stage.epoch_over
        trained = self.trainings([sum(sample_counts(handle, over)) for handle in self.train])
        passes: list[Passes] = self.training_passes(trained, IMAGE, TEXT)
        held_out = _images_and_texts(self.held_out)
        for part, at in ((IMAGE, 0), (TEXT, 1)):
            train = sum(_images_and_texts([handle])[at] for handle in self.train)
            counts = [_images_and_texts([handle])[at] for handle in self.tests]
            plain = sum(counts) + held_out[at]
            passes += [
                _features("features of the train split", part, train),
                _features("features of the test splits", part, plain),
                *self.evaluations(part, counts, held_out[at]),
            ]
            if part == TEXT and experiment.inputs.router_placeholders:
                # Texts that only tell a task, where the method leaves room for a prompt in them.
                passes.append(Passes("routing of texts", part, "plain", 0, plain, plain, kept=True))
        epochs = experiment.stage.epochs if self.learned else 0
        evaluated = sum(one.likely for one in passes if one.part == IMAGE and one.phase == LEARNED)
        tests = sum(handle.rows for handle in self.tests)
        return Work(
            experiment.run_name,
            trained,
            without_nothing(passes),
            self.reads(1 + epochs, 1 + evaluated / max(tests, 1)),
        )


class _Grounding(_Stream):
    """Expressions with their images, which go through one network together."""

    objective = "grounding"

    def work(self) -> Work:
        experiment, stage = self.experiment, self.experiment.stage
        most = experiment.evaluation.expressions
        train = [_expressions(handle, stage.train_expressions) for handle in self.train]
        counts = [_expressions(handle, most) for handle in self.tests]
        others = sum(_expressions(handle, most) for handle in self.others)
        held_out = sum(_expressions(handle, most) for handle in self.held_out)
        trained = self.trainings(train)
        joined = experiment.stream.joined
        passes: list[Passes] = self.training_passes(trained, PAIR)
        if not joined:  # one task: nothing tells tasks apart
            rows = sum(handle.rows for handle in self.train)
            passes.append(_features("features of the train split", IMAGE, rows))
            passes.append(_features("features of the train split", TEXT, sum(train)))
        if self.kind.needs_router and not joined and self.learned:
            seen = [*self.tests, *self.others, *self.held_out]
            rows = sum(handle.rows for handle in seen)
            passes.append(_features("features of the test splits", IMAGE, rows))
        passes.append(_features("zero-shot", PAIR, sum(counts) + others + held_out))
        passes += self.evaluations(PAIR, counts, held_out)
        if self.learned and others:
            passes.append(Passes.exactly("evaluation, other splits", PAIR, "prompted", others))
        notes = self._latents(passes, sum(train), sum(counts) + others + held_out)
        evaluated = sum(one.likely for one in passes if one.phase == LEARNED)
        again = evaluated / max(sum(counts), 1)
        return Work(
            experiment.run_name,
            trained,
            without_nothing(passes),
            self.reads((not joined) + (stage.epochs if self.learned else 0), 1 + again),
            notes,
        )

    def _latents(self, passes: list[Passes], train: int, tests: int) -> tuple[str, ...]:
        """Add what the generator computes for a method whose prompts come from latents."""
        method = self.experiment.method
        section = latent_section(method)
        if section is None or not self.learned:
            return ()
        own = {key: value for key, value in method.items() if key not in NOT_OWN}
        config = parse_dataclass(METHODS.get(method["name"]).config, own, "method")
        if not config.specific:
            return ()
        if config.mask_source not in ("generated", "shuffled"):
            return (f"latents of method.mask_source={config.mask_source}: nothing is denoised",)
        for handle in (*self.train, *self.tests, *self.others, *self.held_out):
            for part in handle.members:
                texts = {expression.text for expression in read_expressions(part)}
                passes += [
                    _features("conditions of the generator", CONDITION_IMAGE, part.rows),
                    _features("conditions of the generator", CONDITION_TEXT, len(texts)),
                ]
        steps = config.steps * (1 if config.guidance == 1.0 else 2)
        if not config.fresh_noise:
            passes.append(_features("latents", DENOISER, steps * (train + tests)))
            return ()
        judged = [one for one in passes if one.mode == "prompted"]
        trained = sum(one.likely for one in passes if one.mode == "training")
        bounds = [
            trained + sum(counts)
            for counts in zip(*((one.least, one.likely, one.most) for one in judged), strict=True)
        ]
        passes.append(Passes("latents", DENOISER, "plain", *(steps * count for count in bounds)))
        return ()


def shard_bytes(handles: Sequence[SplitHandle]) -> int:
    """The size of splits' shards on disk."""
    sizes: dict[str, int] = {}
    for handle in handles:
        for shard in handle.shards:
            filesystem, path = filesystem_of(shard.uri)
            sizes[shard.uri] = int(filesystem.get_file_info(path).size or 0)
    return sum(sizes.values())


def _images_and_texts(handles: Sequence[SplitHandle]) -> tuple[int, int]:
    texts = sum(len(captions) for handle in handles for captions in read_texts(handle))
    return sum(handle.rows for handle in handles), texts


def _expressions(handle: SplitHandle, most: int | None) -> int:
    if most is None:
        return sum(1 for part in handle.members for _ in read_expressions(part))
    return sum(count_chosen(part, most) for part in handle.members)


def _features(phase: str, part: str, count: int, mode: Mode = "plain") -> Passes:
    return Passes.exactly(phase, part, mode, count, kept=True)

"""Evaluation of a stream on the test splits of all its tasks, task identity inferred.

Prompts of earlier tasks never change, so a sample's feature changes only when its route does:
after each task only the samples that go another way than before are encoded again.

Legend: I test images, T test texts, K tasks, P feature width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality, PixelTransform
from system.config.schema import Gallery
from system.data.shards.loading import read_texts
from system.data.shards.manifest import SplitHandle
from system.engine.encoding import Encoder, Route, as_indices
from system.methods.sharing import StreamMethod
from system.objectives.objective import TaskRouter
from system.results.accuracy_matrix import ZERO_SHOT, MatrixRow, matrix_rows
from system.results.metrics import routing_accuracy
from system.results.ranks import QueryRanks, retrieval_ranks
from system.results.recall import retrieval_metrics
from system.results.repeated_texts import repeated_texts
from system.results.score_tiles import Share
from system.storage.feature_store import FeatureStore

#: How a split is asked for: task index -> the rows it hands out.
OpenTest = Callable[[int], SplitHandle]
#: The feature store's key of splits' unprompted features.
KeyOf = Callable[[Sequence[SplitHandle]], str]
#: Whose features: the frozen backbone's, or those under the prompts that a sample is routed to.
Phase = Literal["plain", "prompted"]
#: A method, and what finds the tasks of images by their unprompted features.
Routing = tuple[StreamMethod, Route]
UNROUTED = -1


@dataclass(frozen=True)
class TestSet:
    """All tasks' test rows, one after the other, without their images."""

    __test__ = False  # pytest would take it for a class of tests

    handles: tuple[SplitHandle, ...]
    captions: tuple[str, ...]  # (T,)
    image_of_text: Tensor  # (T,)
    image_task: Tensor  # (I,)
    row_in_task: Tensor  # (I,) row within the task's split

    @classmethod
    def read(cls, open_test: OpenTest, tasks: int) -> "TestSet":
        """Read the captions and sizes of each task's test split."""
        none = torch.empty(0, dtype=torch.long)
        tests = cls((), (), none, none, none)
        for task in range(tasks):
            tests = tests.plus(open_test(task))
        return tests

    def plus(self, handle: SplitHandle) -> "TestSet":
        """With the test split of one more task, read from its shards."""
        rows = read_texts(handle)
        images = torch.arange(len(rows))
        counts = torch.tensor([len(texts) for texts in rows], dtype=torch.long)
        owner = images.repeat_interleave(counts) + len(self.image_task)
        return TestSet(
            (*self.handles, handle),
            (*self.captions, *(text for texts in rows for text in texts)),
            torch.cat([self.image_of_text, owner]),
            torch.cat([self.image_task, torch.full_like(images, len(self.handles))]),
            torch.cat([self.row_in_task, images]),
        )

    @property
    def captions_per_image(self) -> str:
        """The number of captions an image, or the range."""
        counts = torch.bincount(self.image_of_text, minlength=len(self.image_task))
        low, high = int(counts.min()), int(counts.max())
        return str(low) if low == high else f"{low} to {high}"

    def tasks_of(self, modality: Modality) -> Tensor:
        """The true task of each image (I,) or text (T,)."""
        return self.image_task if modality == "vision" else self.image_task[self.image_of_text]


class StreamEvaluation:
    """Holds the test features of the frozen backbone and those under the learned prompts."""

    def __init__(
        self,
        tests: TestSet,
        encoder: Encoder,
        transform: PixelTransform,
        gallery: Gallery,
        open_test: OpenTest,
        router_placeholders: int = 0,
    ) -> None:
        """`router_placeholders`: see `InputConfig`; a method's tokens for its prompt, or 0."""
        self.tests = tests
        self.encoder = encoder
        self.transform = transform
        self.gallery: Gallery = gallery
        self.open_test = open_test
        self.router_placeholders = router_placeholders
        self._awaited: tuple[FeatureStore, str] | None = None  # of unprompted features
        self._plain: dict[Modality, Tensor] = {}
        self.routed: dict[Modality, Tensor] = {}  # features that tell a sample's task
        self.prompted: dict[Modality, Tensor] = {}
        self.encoded_for: dict[Modality, Tensor] = {}
        #: Ranks once all tasks are seen, the same on every rank.
        self._ranked: dict[tuple[Phase, Gallery], list[QueryRanks]] = {}

    @property
    def tasks(self) -> int:
        """How many tasks' test splits are known."""
        return len(self.tests.handles)

    def described(self) -> dict[str, Any]:
        """How the metrics were computed, for the run's outcome."""
        return {
            "gallery": self.gallery,
            "captions_per_image": self.tests.captions_per_image,
            "repeated_texts": self._repeated_texts(),
        }

    def _repeated_texts(self) -> dict[str, Any]:
        """Texts that stand at several images, and the highest recalls: in all, and by task."""
        tests = self.tests
        found = repeated_texts(
            tests.captions,
            tests.image_of_text.tolist(),
            tests.image_task.tolist(),
            tasks=len(tests.handles),
            gallery=self.gallery,
        )
        bounds = [one.highest for one in found if one.highest]
        return {
            "texts": sum(one.texts for one in found),
            "at_several_images": sum(one.at_several_images for one in found),
            # The mean over tasks, as of all recalls.
            "highest": {
                metric: sum(highest[metric] for highest in bounds) / len(bounds)
                for metric in (bounds[0] if bounds else ())
            },
            "per_task": {
                handle.task: asdict(one) for handle, one in zip(tests.handles, found, strict=True)
            },
        }

    def prepare(self, store: FeatureStore, key: str, *, later: bool = False) -> None:
        """Take the unprompted test features from the store, or compute them; or once needed.

        If what needs them then is `after_task`, each image is decoded once for these features and
        for those under the prompts that it is routed to.
        """
        self._awaited = store, key
        if not later:
            self._compute()

    @property
    def plain(self) -> dict[Modality, Tensor]:
        """Unprompted features of all test images and texts."""
        self._compute()
        return self._plain

    def _compute(self, routing: Routing | None = None) -> None:
        """Compute the features that `prepare` announced; with `routing` also prompted ones."""
        if self._awaited is None:
            return
        (store, key), self._awaited = self._awaited, None
        every = torch.ones(len(self.tests.image_task), dtype=torch.bool)
        self._plain, self.routed, images = self._unprompted(
            store, key, every, self.tests.captions, routing
        )
        self._forget()
        if images is not None:
            self.encoded_for["vision"], self.prompted["vision"] = images

    def add_task(self, store: FeatureStore, key_of: KeyOf) -> None:
        """Take in the test split of one more task, as a live stream meets it."""
        self._compute()
        task = len(self.tests.handles)
        handle = self.open_test(task)
        texts = len(self.tests.captions)
        self.tests = self.tests.plus(handle)
        new, routed, _ = self._unprompted(
            store, key_of([handle]), self.tests.image_task == task, self.tests.captions[texts:]
        )
        if task == 0:
            self._plain, self.routed = new, routed
            self._forget()
            return
        self._ranked = {}
        for modality in MODALITIES:
            unrouted = torch.full((len(new[modality]),), UNROUTED, dtype=torch.long)
            self._plain[modality] = torch.cat([self._plain[modality], new[modality]])
            self.routed[modality] = torch.cat([self.routed[modality], routed[modality]])
            self.prompted[modality] = torch.cat([self.prompted[modality], new[modality]])
            self.encoded_for[modality] = torch.cat([self.encoded_for[modality], unrouted])

    def all_rows(
        self, method: StreamMethod, router: TaskRouter | None
    ) -> Iterator[list[MatrixRow]]:
        """The whole matrix anew, for tasks that came while the others were learned.

        Only where what a task learned stays as it was: the method has a router, or learns nothing.
        """
        assert method.needs_router or method.trains_on == "nothing", "old tasks' state is gone"
        self._forget()
        yield self.zero_shot()
        for task in range(len(self.tests.handles)):
            yield self.after_task(task, method, router.upto(task + 1) if router else None)

    def _unprompted(
        self,
        store: FeatureStore,
        key: str,
        chosen: Tensor,
        captions: Sequence[str],
        routing: Routing | None = None,
    ) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor], tuple[Tensor, Tensor] | None]:
        """Features of the frozen backbone: of the chosen images (n, P) and of captions (T, P).

        And those that tell their tasks: the same, or those of texts with placeholders. And with
        `routing`, unless the store has the others, the images' tasks and features under these.
        """
        both: tuple[Tensor, Tensor] | None = None
        group, placeholders = self.encoder.group, self.router_placeholders
        if not group.broadcast(store.find(key) is not None if group.leads else None):
            if routing is None:
                vision = self._images(chosen, None)
            else:
                vision, both = self._images_and_routes(chosen, routing)
            made = {"vision": vision, "text": self.encoder.texts(captions, None)}
            if placeholders:
                made["routed_text"] = self.encoder.texts(captions, None, placeholders)
            if group.leads:
                store.put(key, made)
        else:
            found = store.find(key)
            assert found is not None, f"feature store lost {key}"
            made = dict(found)
        images, texts = made["vision"], made["text"]
        telling = made["routed_text"] if placeholders else texts
        plain: dict[Modality, Tensor] = {"vision": images, "text": texts}
        return plain, {"vision": images, "text": telling}, both

    def _forget(self) -> None:
        """Nothing is prompted yet."""
        self._ranked = {}
        self.prompted = {m: self.plain[m].clone() for m in MODALITIES}
        self.encoded_for = {
            m: torch.full((len(self.plain[m]),), UNROUTED, dtype=torch.long) for m in MODALITIES
        }

    def zero_shot(self) -> list[MatrixRow]:
        """Matrix rows of the frozen backbone, in the gallery of all tasks: that of the last row."""
        return matrix_rows(ZERO_SHOT, retrieval_metrics(self._all_seen("plain")))

    def zero_shot_before(self) -> list[MatrixRow] | None:
        """The frozen backbone on each task in the gallery right before the task is learned.

        None where that gallery is the one of all other rows.
        """
        if self.gallery != "seen":
            return None
        return [
            row
            for task in range(len(self.tests.handles))
            for row in self._rows(
                ZERO_SHOT, self.plain["vision"], self.plain["text"], range(task), tasks=(task,)
            )
        ]

    def after_task(
        self, trained: int, method: StreamMethod, router: TaskRouter | None
    ) -> list[MatrixRow]:
        """Matrix rows after a task: recalls under each sample's route, and routing accuracy."""
        learned = range(trained + 1)
        if method.trains_on != "nothing":
            self._compute((method, lambda features: _routes(features, "vision", router, trained)))
        routes = {m: self.route(m, router, trained) for m in MODALITIES}
        if method.trains_on != "nothing":  # else the unprompted features are the method's own
            for modality in MODALITIES:
                self._encode_again(modality, method, routes[modality])
        if self.gallery != "seen" or len(learned) == self.tasks:
            rows = matrix_rows(trained, retrieval_metrics(self._all_seen("prompted")))
        else:
            rows = self._rows(trained, self.prompted["vision"], self.prompted["text"], learned)
        if router is not None:
            for metric, modality in (("route_image", "vision"), ("route_text", "text")):
                accuracy = routing_accuracy(
                    routes[modality],
                    self.tests.tasks_of(modality),
                    tasks=range(len(self.tests.handles)),
                    learned=learned,
                )
                rows += matrix_rows(trained, {metric: accuracy})
        return rows

    def oracle(self, trained: int, method: StreamMethod) -> list[MatrixRow]:
        """Matrix rows with the true task given, once all tasks are learned.

        To a method without a router a task's name tells nothing: its rows are those of inference.
        """
        features = dict(self.prompted)
        for modality in MODALITIES if method.needs_router else ():
            true_task = self.tests.tasks_of(modality)
            wrong = self.encoded_for[modality] != true_task
            features[modality] = self.prompted[modality].clone()
            features[modality][wrong] = self._encode(modality, wrong, method, true_task)
        return self._rows(
            trained, features["vision"], features["text"], range(len(self.tests.handles))
        )

    def route(self, modality: Modality, router: TaskRouter | None, trained: int) -> Tensor:
        """The task whose prompts each test sample gets."""
        self._compute()
        return _routes(self.routed[modality], modality, router, trained)

    def _encode_again(self, modality: Modality, method: StreamMethod, routes: Tensor) -> None:
        stale = self.encoded_for[modality] != routes
        if stale.any():
            self._ranked = {key: kept for key, kept in self._ranked.items() if key[0] == "plain"}
        self.prompted[modality][stale] = self._encode(modality, stale, method, routes)
        self.encoded_for[modality] = routes

    def _encode(
        self, modality: Modality, chosen: Tensor, method: StreamMethod, tasks: Tensor
    ) -> Tensor:
        """Features (n, P) of the chosen samples under the prompts of their `tasks`."""
        if modality == "vision":
            return self._images(chosen, (method, tasks))
        positions = as_indices(chosen)
        return self.encoder.texts(
            [self.tests.captions[i] for i in positions], (method, tasks[chosen].tolist())
        )

    def _images(self, chosen: Tensor, prompted: tuple[StreamMethod, Tensor] | None) -> Tensor:
        parts = [torch.zeros(0, self.encoder.backbone.shape.feature_width)]
        for task in range(len(self.tests.handles)):
            mine = chosen & (self.tests.image_task == task)
            if not mine.any():
                continue
            rows = self.tests.row_in_task[mine].tolist()
            tasks = None if prompted is None else (prompted[0], prompted[1][mine].tolist())
            parts.append(self.encoder.images(self.open_test(task), rows, self.transform, tasks))
        return torch.cat(parts)

    def _images_and_routes(
        self, chosen: Tensor, routing: Routing
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Unprompted features of the chosen images; their tasks, and features under these."""
        width = self.encoder.backbone.shape.feature_width
        parts = [(torch.zeros(0, width), torch.zeros(0, dtype=torch.long), torch.zeros(0, width))]
        for task in range(self.tasks):
            rows = self.tests.row_in_task[chosen & (self.tests.image_task == task)].tolist()
            if rows:
                opened = self.open_test(task)
                parts.append(self.encoder.images_and_routes(opened, rows, self.transform, *routing))
        plain, tasks, prompted = map(torch.cat, zip(*parts, strict=True))
        return plain, (tasks, prompted)

    def _rows(
        self,
        trained: int,
        images: Tensor,
        texts: Tensor,
        seen: Sequence[int],
        tasks: Sequence[int] | None = None,
    ) -> list[MatrixRow]:
        """Matrix rows of all tasks, or of some; every rank has to call this."""
        found = self._found(images, texts, seen, tasks, share=self._share)
        return matrix_rows(trained, retrieval_metrics(found))

    def ranks(self, phase: Phase) -> list[QueryRanks]:
        """What each query finds once all tasks are learned, unprompted or as it is routed.

        This rank's own affair: what an evaluation has not found is computed on it alone.
        """
        known = self._ranked.get((phase, self.gallery))
        return self._found(*self._features(phase), range(self.tasks)) if known is None else known

    def _all_seen(self, phase: Phase) -> list[QueryRanks]:
        """The same, kept for as long as the features are; every rank has to call this."""
        key = (phase, self.gallery)
        if key not in self._ranked:
            features = self._features(phase)
            self._ranked[key] = self._found(*features, range(self.tasks), share=self._share)
        return self._ranked[key]

    def _features(self, phase: Phase) -> tuple[Tensor, Tensor]:
        self._compute()
        of = self._plain if phase == "plain" else self.prompted
        return of["vision"], of["text"]

    @property
    def _share(self) -> Share:
        group = self.encoder.group
        return Share(group.rank, group.size, group.total)

    def _found(
        self,
        images: Tensor,
        texts: Tensor,
        seen: Sequence[int],
        tasks: Sequence[int] | None = None,
        share: Share = Share(),  # noqa: B008 - frozen
    ) -> list[QueryRanks]:
        return retrieval_ranks(
            images,
            texts,
            self.tests.image_of_text,
            self.tests.image_task,
            tasks=range(self.tasks) if tasks is None else tasks,
            gallery=self.gallery,
            seen=seen,
            device=self.encoder.group.device,
            share=share,
        )


def _routes(
    features: Tensor, modality: Modality, router: TaskRouter | None, trained: int
) -> Tensor:
    """The tasks (n,) of samples by the features (n, P) that tell them; the last one by default."""
    if router is None:
        return torch.full((len(features),), trained, dtype=torch.long)
    return router.route(modality, features)

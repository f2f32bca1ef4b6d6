"""Evaluation of a stream of grounding tasks on all their test expressions, task inferred.

An expression gets the prompts of the task that its image is routed to. Prompts of earlier tasks
never change, so what is found for it changes only when its route does: after each task only the
blocks with an expression that goes another way than before are run again. Blocks are always cut
alike, so that nothing depends on what was run before.

Legend: n expressions of a task, I images of all tasks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from system.data.shards.manifest import SplitHandle
from system.diff_prompt.prompt_latents import SplitLatents
from system.engine.model_stage import Show
from system.grounders.entries import Entries
from system.grounders.grounder import GroundingBatch
from system.methods.sharing import StreamMethod
from system.objectives.grounding.chosen_expressions import ChosenExpressions, chosen_expressions
from system.objectives.grounding.grounder_features import GrounderFeatures
from system.objectives.grounding.rec_scoring import Found, RecScorer
from system.objectives.grounding.unread_words import unread_words
from system.objectives.objective import OpenTest, TaskRouter
from system.results.accuracy_matrix import ZERO_SHOT, MatrixRow, matrix_rows
from system.results.metrics import MetricValue, routing_accuracy
from system.results.rec_recalls import METRICS, TaskRanks, recalls, split_recalls
from system.storage.feature_store import FeatureStore

UNROUTED = -1
#: The latents of a task's test expressions, for a method that needs them.
LatentsOf = Callable[[ChosenExpressions], SplitLatents | None]


@dataclass
class EvaluatedSplit:
    """Test expressions of one task, and what was found for them.

    `index` is the place of the stream's task that they belong to; a joined task has several.
    """

    index: int
    chosen: ChosenExpressions
    plain: Found  # by the frozen grounder
    prompted: Found
    found_for: Tensor  # (n,) the task whose prompts `prompted` rests on
    images: Tensor | None = None  # features (rows, P), once a router asked for them

    def forget(self) -> None:
        """Stand where nothing was learned yet."""
        self.prompted = self.plain
        self.found_for = self.everywhere(UNROUTED)

    def everywhere(self, task: int) -> Tensor:
        """The same task (n,) for each expression."""
        return torch.full((len(self.chosen),), task, dtype=torch.long)


class GroundingEvaluation:
    """Holds what the frozen grounder found, and what was found under the learned prompts.

    `evaluated` are the leading split's expressions of all tasks so far.
    """

    def __init__(
        self,
        scorer: RecScorer,
        features: GrounderFeatures,
        open_test: OpenTest,
        *,
        most: int | None,
        zero_shot_store: FeatureStore,
        show: Show,
        latents_of: LatentsOf = lambda _: None,
        epoch: int = 0,
    ) -> None:
        """`most` expressions of each task, a random subsample of its split; None: all.

        `epoch` is whose latents they get where each has new ones.
        """
        self.scorer = scorer
        self.features = features
        self.open_test = open_test
        self.most = most
        self.zero_shot_store = zero_shot_store
        self.show = show
        self.latents_of = latents_of
        self.epoch = epoch
        self.tasks = 0
        self.joined = False  # whether a task joins several
        self.evaluated: list[EvaluatedSplit] = []

    def add_task(self) -> None:
        """Take in the leading test split of one more task."""
        handle = self.open_test(self.tasks)
        self.joined = self.joined or bool(handle.parts)
        self.evaluated += self._opened(self.tasks, handle)
        self.tasks += 1

    def zero_shot(self) -> list[MatrixRow]:
        """Matrix rows of the frozen grounder."""
        return self._rows(ZERO_SHOT, [evaluated.plain for evaluated in self.evaluated])

    def after_task(
        self, trained: int, method: StreamMethod, router: TaskRouter | None
    ) -> list[MatrixRow]:
        """Matrix rows after a task: recalls under each expression's route, routing accuracy."""
        routes = self._find_all(self.evaluated, trained, method, router)
        rows = self._rows(trained, [evaluated.prompted for evaluated in self.evaluated])
        if router is not None:
            accuracy = routing_accuracy(
                torch.cat(routes),
                torch.cat(
                    [
                        torch.full_like(r, evaluated.index)
                        for r, evaluated in zip(routes, self.evaluated, strict=True)
                    ]
                ),
                tasks=range(self.tasks),
                learned=range(trained + 1),
            )
            rows += matrix_rows(trained, {"route_image": accuracy})
        return rows

    def oracle(self, trained: int, method: StreamMethod) -> list[MatrixRow]:
        """Matrix rows with the true task given, once all tasks are learned.

        To a method without a router a task's name tells nothing: its rows are those of inference.
        """
        if not method.needs_router:
            return self._rows(trained, [evaluated.prompted for evaluated in self.evaluated])
        found = [self._found(j, method, j.everywhere(j.index)) for j in self.evaluated]
        return self._rows(trained, found)

    def all_rows(
        self, method: StreamMethod, router: TaskRouter | None
    ) -> Iterator[list[MatrixRow]]:
        """The whole matrix anew, for tasks that came while the others were learned."""
        assert method.needs_router or method.trains_on == "nothing", "old tasks' state is gone"
        for evaluated in self.evaluated:
            evaluated.forget()
        yield self.zero_shot()
        for task in range(self.tasks):
            yield self.after_task(task, method, router.upto(task + 1) if router else None)

    def described(self) -> dict[str, Any]:
        """How the metrics were computed, for the run's outcome."""
        described = {"expressions": sum(len(evaluated.chosen) for evaluated in self.evaluated)}
        left_out = sum(evaluated.chosen.left_out.count for evaluated in self.evaluated)
        described |= {"expressions_without_area": left_out} if left_out else {}
        unread = unread_words(self.scorer.grounder, [one.chosen for one in self.evaluated])
        return described | unread.counts()

    def by_split(
        self, splits: Sequence[str], method: StreamMethod, router: TaskRouter | None
    ) -> dict[str, Any]:
        """The recalls of each split, the leading one first, once all tasks are learned.

        "zero_shot" and "trained" of each, over all expressions, by task, by super-category and by
        size of the object, as `SplitRecalls.to_json` gives them; "undefined": why one has no value,
        by its path in metrics.json.
        """
        found: dict[str, Any] = {"zero_shot": {}, "trained": {}, "undefined": {}}
        for place, split in enumerate(splits):
            evaluated = self.evaluated
            if place:
                opened = [self.open_test(task, split) for task in range(self.tasks)]
                evaluated = [one for task, g in enumerate(opened) for one in self._opened(task, g)]
                self._find_all(evaluated, self.tasks - 1, method, router)
            for phase, path in (("zero_shot", "zero_shot.splits"), ("trained", "splits")):
                ranks = {
                    one.chosen.handle.task: TaskRanks(
                        (one.plain if phase == "zero_shot" else one.prompted).ranks,
                        [expression.super_category for expression in one.chosen.expressions],
                        [expression.area for expression in one.chosen.expressions],
                    )
                    for one in evaluated
                }
                recalls_of = split_recalls(ranks, split)
                found[phase][split] = recalls_of.to_json()
                found["undefined"] |= {
                    f"{path}.{split}.{key}": why for key, why in recalls_of.undefined.items()
                }
        return found

    def _opened(self, index: int, handle: SplitHandle) -> list[EvaluatedSplit]:
        """A split as the frozen grounder sees it, by the tasks that it joins."""
        opened = []
        for part in handle.members:
            chosen = chosen_expressions(part, self.most)
            plain = self.scorer.frozen(chosen, self.zero_shot_store, self.show)
            unrouted = torch.full((len(chosen),), UNROUTED, dtype=torch.long)
            opened.append(EvaluatedSplit(index, chosen, plain, plain, unrouted))
        return opened

    def _find_all(
        self,
        evaluated: Sequence[EvaluatedSplit],
        trained: int,
        method: StreamMethod,
        router: TaskRouter | None,
    ) -> list[Tensor]:
        """Find again what goes another way after a task; the routes (rows,) of all images."""
        image_routes = [self._image_routes(one, router, trained) for one in evaluated]
        if method.trains_on != "nothing":
            for one, routes in zip(evaluated, image_routes, strict=True):
                rows = torch.tensor([e.row for e in one.chosen.expressions], dtype=torch.long)
                one.prompted = self._found(one, method, routes[rows])
                one.found_for = routes[rows]
        return image_routes

    def _image_routes(
        self, evaluated: EvaluatedSplit, router: TaskRouter | None, trained: int
    ) -> Tensor:
        """The task (rows,) whose prompts each image's expressions get."""
        rows = evaluated.chosen.handle.rows
        if router is None or not rows:
            return torch.full((rows,), trained, dtype=torch.long)
        if evaluated.images is None:
            evaluated.images, _ = self.features.of(evaluated.chosen.handle, [])
        return router.route("vision", evaluated.images)

    def _found(self, evaluated: EvaluatedSplit, method: StreamMethod, routes: Tensor) -> Found:
        """The boxes found under routes (n,): known where they are as before."""
        chosen, known = evaluated.chosen, evaluated.prompted
        stale = evaluated.found_for != routes
        blocks = [b for b in self.scorer.blocks(len(chosen)) if stale[b.start : b.stop].any()]
        if not blocks:
            return known

        def entries(
            places: Sequence[int], batch: GroundingBatch, latents: Tensor | None
        ) -> Entries:
            tasks = routes[list(places)].to(batch.images.device)
            return method.entries(self.scorer.grounder, batch, tasks, latents)

        new = self.scorer.score(
            chosen,
            self.show,
            phase=f"evaluation {chosen.handle.task}, {chosen.handle.split}",
            entries=entries,
            latents=self.latents_of(chosen),
            epoch=self.epoch,
            blocks=blocks,
            reach=method.reach(self.scorer.grounder),
        )
        places = torch.tensor([place for block in blocks for place in block])
        ranks, best = known.ranks.clone(), known.best.clone()
        ranks[places], best[places] = new.ranks, new.best
        return Found(ranks, best)

    def _rows(self, trained: int, found: Sequence[Found]) -> list[MatrixRow]:
        """Matrix rows from what was found for each of `evaluated`."""
        values: dict[str, dict[int, MetricValue]] = {metric: {} for metric in METRICS}
        for task in range(self.tasks):
            ranks = torch.cat(
                [f.ranks for f, j in zip(found, self.evaluated, strict=True) if j.index == task]
            )
            reason = None if len(ranks) else "no expression"
            for metric, value in recalls(ranks).items():
                values[metric][task] = MetricValue(value, len(ranks), reason)
        return matrix_rows(trained, values)

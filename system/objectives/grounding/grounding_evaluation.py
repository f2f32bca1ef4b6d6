"""Evaluation of a stream of grounding tasks on all their test expressions, task inferred.

An expression gets the prompts of the task that its image is routed to. Prompts of earlier tasks
never change, so what is found for it changes only when its route does: after each task only the
blocks with an expression that goes another way than before are run again. Blocks are always cut
alike, so that nothing depends on what was run before.

Legend: n expressions of a task, I images of all tasks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from system.data.shards.manifest import SplitHandle
from system.diff_prompt.prompt_latents import SplitLatents
from system.engine.model_stage import Show
from system.grounders.grounder import Entries, Tokens
from system.methods.sharing import StreamMethod
from system.objectives.grounding.grounder_features import GrounderFeatures
from system.objectives.grounding.rec_scoring import (
    ChosenExpressions,
    Found,
    RecScorer,
    chosen_expressions,
)
from system.objectives.objective import TaskRouter
from system.results.accuracy_matrix import ZERO_SHOT, MatrixRow, matrix_rows
from system.results.metrics import MetricValue, routing_accuracy
from system.results.rec_figures import METRICS, recalls
from system.storage.feature_store import FeatureStore

UNROUTED = -1
#: The latents of a task's test expressions, for a method that needs them.
LatentsOf = Callable[[ChosenExpressions], SplitLatents | None]


class GroundingEvaluation:
    """Holds what the frozen grounder found, and what was found under the learned prompts."""

    def __init__(
        self,
        scorer: RecScorer,
        features: GrounderFeatures,
        open_test: Callable[[int], SplitHandle],
        *,
        most: int | None,
        zero_shot_store: FeatureStore,
        show: Show,
        latents_of: LatentsOf = lambda _: None,
        epoch: int = 0,
    ) -> None:
        """`most` expressions of each task, spread over its split; None: all.

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
        self.tests: list[ChosenExpressions] = []
        self.images: list[Tensor] = []  # a task: features (rows, P)
        self.plain: list[Found] = []
        self.prompted: list[Found] = []
        self.found_for: list[Tensor] = []  # a task: the route (n,) that `prompted` rests on

    @property
    def tasks(self) -> int:
        """How many tasks' test splits are known."""
        return len(self.tests)

    def add_task(self) -> None:
        """Take in the test split of one more task."""
        chosen = chosen_expressions(self.open_test(len(self.tests)), self.most)
        images, _ = self.features.of(chosen.handle, [])
        plain = self.scorer.frozen(chosen, self.zero_shot_store, self.show)
        self.tests.append(chosen)
        self.images.append(images)
        self.plain.append(plain)
        self.prompted.append(plain)
        self.found_for.append(_everywhere(chosen, UNROUTED))

    def zero_shot(self) -> list[MatrixRow]:
        """Matrix rows of the frozen grounder."""
        return self._rows(ZERO_SHOT, self.plain)

    def after_task(
        self, trained: int, method: StreamMethod, router: TaskRouter | None
    ) -> list[MatrixRow]:
        """Matrix rows after a task: recalls under each expression's route, routing accuracy."""
        image_routes = [self._image_routes(task, router, trained) for task in range(self.tasks)]
        for task, routes in enumerate(image_routes if method.trains_on != "nothing" else ()):
            rows = torch.tensor([e.row for e in self.tests[task].expressions], dtype=torch.long)
            self._find_again(task, method, routes[rows])
        rows_found = self._rows(trained, self.prompted)
        if router is not None:
            accuracy = routing_accuracy(
                torch.cat(image_routes),
                torch.cat([torch.full_like(r, task) for task, r in enumerate(image_routes)]),
                tasks=range(self.tasks),
                learned=range(trained + 1),
            )
            rows_found += matrix_rows(trained, {"route_image": accuracy})
        return rows_found

    def oracle(self, trained: int, method: StreamMethod) -> list[MatrixRow]:
        """Matrix rows with the true task given, once all tasks are learned.

        To a method without a router a task's name tells nothing: its rows are those of inference.
        """
        found = list(self.prompted)
        for task in range(self.tasks) if method.needs_router else ():
            truth = _everywhere(self.tests[task], task)
            found[task] = self._found(task, method, truth)
        return self._rows(trained, found)

    def all_rows(self, method: StreamMethod, router: TaskRouter | None) -> list[MatrixRow]:
        """The whole matrix anew, for tasks that came while the others were learned."""
        assert method.needs_router or method.trains_on == "nothing", "old tasks' state is gone"
        self.prompted = list(self.plain)
        self.found_for = [_everywhere(chosen, UNROUTED) for chosen in self.tests]
        rows = self.zero_shot()
        for task in range(self.tasks):
            rows += self.after_task(task, method, router.upto(task + 1) if router else None)
        return rows

    def described(self) -> dict[str, Any]:
        """What the figures rest on, for the run's outcome."""
        return {"expressions": sum(map(len, self.tests))}

    def _image_routes(self, task: int, router: TaskRouter | None, trained: int) -> Tensor:
        """The task (rows,) whose prompts each image's expressions get."""
        if router is None:
            return torch.full((len(self.images[task]),), trained, dtype=torch.long)
        return router.route("vision", self.images[task])

    def _find_again(self, task: int, method: StreamMethod, routes: Tensor) -> None:
        self.prompted[task] = self._found(task, method, routes)
        self.found_for[task] = routes

    def _found(self, task: int, method: StreamMethod, routes: Tensor) -> Found:
        """What is found under routes (n,): known where they are as before."""
        chosen, known = self.tests[task], self.prompted[task]
        stale = self.found_for[task] != routes
        blocks = [b for b in self.scorer.blocks(len(chosen)) if stale[b.start : b.stop].any()]
        if not blocks:
            return known

        def entries(places: Sequence[int], tokens: Tokens, latents: Tensor | None) -> Entries:
            tasks = routes[list(places)].to(tokens.ids.device)
            return method.entries(self.scorer.grounder, tokens, tasks, latents)

        new = self.scorer.score(
            chosen,
            self.show,
            phase=f"evaluation {chosen.handle.task}, {chosen.handle.split}",
            entries=entries,
            latents=self.latents_of(chosen),
            epoch=self.epoch,
            blocks=blocks,
        )
        places = torch.tensor([place for block in blocks for place in block])
        ranks, best = known.ranks.clone(), known.best.clone()
        ranks[places], best[places] = new.ranks, new.best
        return Found(ranks, best)

    def _rows(self, trained: int, found: Sequence[Found]) -> list[MatrixRow]:
        figures: dict[str, dict[int, MetricValue]] = {metric: {} for metric in METRICS}
        for task, of_task in enumerate(found):
            count = len(of_task.ranks)
            reason = None if count else "no expression"
            for metric, value in recalls(of_task.ranks).items():
                figures[metric][task] = MetricValue(value, count, reason)
        return matrix_rows(trained, figures)


def _everywhere(chosen: ChosenExpressions, task: int) -> Tensor:
    """The same task (n,) for each expression."""
    return torch.full((len(chosen),), task, dtype=torch.long)

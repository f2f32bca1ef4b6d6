"""How alike the tasks so far are, from what the method's config names as the source.

A task's entry is made when the task comes, from nothing of later ones. Features of a contrastive
model lie in a narrow cone (Liang et al., "Mind the Gap", NeurIPS 2022, arXiv 2203.02053), so that
the cosine of any two is high. Centred over the tasks so far, they tell which are more alike than
tasks are on the whole. The centre moves with each task; earlier tasks were learned by the centre
of their time.

Legend: K tasks so far, I images, T captions, P feature width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from system.errors import AdapterMismatchError
from system.methods.base import SimilaritySource
from system.objectives.objective import NameFeatures
from system.stream.given_similarity import GivenSimilarity

#: Under which name a task's entry is saved.
ENTRY: dict[SimilaritySource, str] = {
    "captions": "task_text",
    "names": "task_name",
    "images": "task_image",
    "matrix": "task_similarity",
}


class TaskSimilarity:
    """One entry a task: a unit feature (P,), or of a given matrix the row (k + 1,) up to itself.

    Features are the frozen model's, unprompted: the mean of the training captions' or images',
    or that of the name.
    """

    def __init__(
        self,
        source: SimilaritySource,
        given: GivenSimilarity | None = None,
        *,
        centred: bool = False,
    ) -> None:
        """`centred` is of features alone: a given matrix is taken as it is."""
        self.source = source
        self.given = given
        self.centred = centred and source != "matrix"
        self.entries: list[Tensor] = []

    @property
    def entry_name(self) -> str:
        """Under which name a task's entry is saved."""
        return ENTRY[self.source]

    def entry(
        self, names: NameFeatures, tasks: Sequence[str], images: Tensor, texts: Tensor
    ) -> Tensor:
        """The entry of the newest of the `tasks` so far, by its unprompted training features.

        `images` (I, P), `texts` (T, P); `names` is asked where these are the source.
        Raises DataError for a task that the given matrix has not.
        """
        if self.source == "matrix":
            assert self.given is not None, "the preflight asks for the matrix"
            self.given.require(tasks)
            return torch.tensor([self.given.between(tasks[-1], task) for task in tasks])
        if self.source == "names":
            return names(tasks[-1:])[0]
        features = texts if self.source == "captions" else images
        return torch.nn.functional.normalize(features.mean(0), dim=0)

    def add(self, entry: Tensor) -> None:
        """Take in the next task."""
        self.entries.append(entry)

    def restore(self, entry: Tensor, tasks: Sequence[str]) -> None:
        """Take in a saved entry, of the newest of these tasks.

        Raises AdapterMismatchError when the matrix given now is another one.
        """
        if self.source == "matrix" and self.given is not None:
            self.given.require(tasks)
            now = torch.tensor([self.given.between(tasks[-1], task) for task in tasks])
            if not torch.equal(now, entry):
                raise AdapterMismatchError(
                    f"{self.given.file} gives task {tasks[-1]!r} other similarities than it was "
                    "learned with; give the old file, or start another run_name"
                )
        self.add(entry)

    def matrix(self) -> Tensor:
        """Similarities (K, K) of the tasks so far.

        Centred, a task is like itself by 1, also the first one, which lies at the centre; the
        first two are opposite, -1, whatever they are.
        """
        if self.source != "matrix":
            stacked = torch.stack(self.entries)  # (K, P)
            if not self.centred:
                return stacked @ stacked.T
            # Each task counts the same. What is left of equal features is rounding: no direction.
            apart = stacked - stacked.mean(dim=0)
            stacked = torch.nn.functional.normalize(apart, dim=1, eps=1e-5)
            return (stacked @ stacked.T).fill_diagonal_(1)
        full = torch.zeros(len(self.entries), len(self.entries))
        for task, row in enumerate(self.entries):
            full[task, : task + 1] = full[: task + 1, task] = row
        return full

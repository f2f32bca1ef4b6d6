"""The router: which task a test image or text belongs to, by the nearest k-means centre.

Each task and modality has a few centres of its *unprompted* training features. A sample goes to the
task that owns its nearest centre by L1 distance, whatever else is in its batch.

Legend: B batch, K tasks, C centres a task, M centres of all tasks, D features.
Source: LPI (arXiv 2501.14369) and S-Prompts (arXiv 2207.12819).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, Modality
from system.errors import AdapterMismatchError, DataError

_CHUNK = 4096  # samples whose distances are held at once


class Router:
    """K-means centres of the tasks learned so far, per modality.

    Args:
        centers_per_task: k of k-means; a task with fewer distinct features gets fewer centres.
        seed: of k-means' initial centres, together with the task's index and the modality.
        modalities: which kinds of samples are routed.
    """

    def __init__(
        self,
        *,
        centers_per_task: int = 5,
        seed: int = 0,
        modalities: tuple[Modality, ...] = MODALITIES,
    ) -> None:
        self.centers_per_task = centers_per_task
        self.seed = seed
        self.modalities = modalities
        self._centers: dict[Modality, Tensor] = {m: torch.empty(0, 0) for m in modalities}  # [M, D]
        self._owner: dict[Modality, Tensor] = {
            m: torch.empty(0, dtype=torch.int64) for m in modalities
        }  # [M], the task of each centre, ascending

    @property
    def tasks(self) -> tuple[int, ...]:
        """Indices of the tasks that samples can be routed to."""
        return tuple(sorted(set(self._owner[self.modalities[0]].tolist())))

    def add_task(self, task_index: int, image_features: Tensor, text_features: Tensor) -> None:
        """Fit the centres of a task on its unprompted training features.

        The rows' order decides the initial centres: pass them in the split's own order.

        Args:
            task_index: of the task; not yet in the router.
            image_features: [I, D].
            text_features: [T, D]; like the images' not looked at where texts are not routed.

        Raises:
            DataError: no features, or one that is NaN or infinite.
            AdapterMismatchError: the features are of another width than the other tasks'.
            ValueError: the task is there already: old centres never change.
        """
        if task_index in self.tasks:
            raise ValueError(
                f"task {task_index} is in the router already; old centres never change"
            )
        features = {"vision": image_features, "text": text_features}
        fitted = {
            m: self._fit(
                features[m], f"router, {m} of task {task_index}", [self.seed, task_index, i]
            )
            for i, m in enumerate(MODALITIES)
            if m in self.modalities
        }
        self.restore_task(task_index, fitted)

    def centers_of(self, task_index: int) -> dict[Modality, Tensor]:
        """The centres [C, D] of a task, by modality."""
        return {m: self._centers[m][self._owner[m] == task_index] for m in self.modalities}

    def restore_task(self, task_index: int, fitted: Mapping[Modality, Tensor]) -> None:
        """Add a task by the centres that `centers_of` gave.

        Raises:
            AdapterMismatchError: the centres are of another width than those of other tasks.
        """
        if self.tasks:
            for modality, centers in fitted.items():
                _check_width(centers, self._centers[modality])
        for modality, centers in fitted.items():
            # an empty router has no width yet
            old = self._centers[modality].view(-1, centers.shape[1])
            owner = torch.cat([self._owner[modality], torch.full((len(centers),), task_index)])
            order = torch.argsort(owner, stable=True)  # ascending, so that ties go to the lowest
            self._centers[modality] = torch.cat([old, centers])[order]
            self._owner[modality] = owner[order]

    def upto(self, tasks: int) -> Router:
        """The router as it was after the first `tasks` tasks."""
        earlier = Router(
            centers_per_task=self.centers_per_task, seed=self.seed, modalities=self.modalities
        )
        for task in self.tasks[:tasks]:
            earlier.restore_task(task, self.centers_of(task))
        return earlier

    def route(self, modality: Modality, features: Tensor) -> Tensor:
        """The task of each sample.

        Args:
            modality: of the samples.
            features: [B, D], unprompted.

        Returns:
            [B] int64 on the CPU; a tie goes to the lowest task.

        Raises:
            AdapterMismatchError: the features are of another width than the centres.
            ValueError: no task was added yet.
        """
        if not self.tasks:
            raise ValueError("the router knows no task yet: add one before routing")
        return _nearest_owner(self._centers[modality], self._owner[modality], features)

    def state(self) -> dict[str, Tensor]:
        """All centres and their tasks, for safetensors."""
        return {
            f"{modality}.{part}": tensors[modality]
            for modality in self.modalities
            for part, tensors in (("centers", self._centers), ("task", self._owner))
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], *, centers_per_task: int = 5, seed: int = 0
    ) -> Router:
        """The router whose `state` this is; `centers_per_task` and `seed` hold for further tasks.

        Raises:
            AdapterMismatchError: a key is missing or unknown.
        """
        router = cls(centers_per_task=centers_per_task, seed=seed)
        if set(state) != set(router.state()):
            raise AdapterMismatchError(
                f"router state has keys {sorted(state)}, expected {sorted(router.state())}"
            )
        for modality in MODALITIES:
            router._centers[modality] = state[f"{modality}.centers"].cpu().float()
            router._owner[modality] = state[f"{modality}.task"].cpu().long()
        return router

    def _fit(self, features: Tensor, name: str, seed: list[int]) -> Tensor:
        """Centres [C, D] float32 of features [B, D]."""
        # scikit-learn takes a second to import and only training needs it
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        rows: NDArray[np.float64] = features.detach().cpu().double().numpy()
        if rows.ndim != 2 or not len(rows):
            raise DataError(f"{name}: no features of shape [rows, D] to fit the router on")
        if not np.isfinite(rows).all():
            raise DataError(f"{name}: features hold NaN or infinity; check the backbone's weights")
        centers = min(self.centers_per_task, len(np.unique(rows, axis=0)))
        random_state = int(np.random.SeedSequence(seed).generate_state(1)[0])
        with threadpool_limits(limits=1):  # one thread sums in one order
            kmeans = KMeans(centers, n_init=10, random_state=random_state).fit(rows)
        return torch.from_numpy(kmeans.cluster_centers_).float()


def route_by_centers(centers: Tensor, features: Tensor) -> Tensor:
    """The task of the nearest centre by L1 distance.

    Args:
        centers: [K, C, D].
        features: [B, D].

    Returns:
        [B] int64 on the CPU; a tie goes to the lowest task.

    Raises:
        AdapterMismatchError: the features are of another width than the centres.
    """
    tasks, per_task = centers.shape[:2]
    owner = torch.arange(tasks).repeat_interleave(per_task)
    return _nearest_owner(centers.flatten(0, 1), owner, features)


def _nearest_owner(centers: Tensor, owner: Tensor, features: Tensor) -> Tensor:
    """Owner [B] of each feature's nearest of the centres [M, D], whose owners [M] ascend."""
    _check_width(features, centers)
    features, centers = features.detach().cpu().double(), centers.cpu().double()
    nearest = [  # argmin takes the first of equal distances
        torch.cdist(features[start : start + _CHUNK], centers, p=1).argmin(dim=1)
        for start in range(0, len(features), _CHUNK)
    ]
    return owner[torch.cat([torch.empty(0, dtype=torch.int64), *nearest])]


def _check_width(features: Tensor, centers: Tensor) -> None:
    if features.shape[1] != centers.shape[1]:
        raise AdapterMismatchError(
            f"features are {features.shape[1]} wide and the router's centres {centers.shape[1]}: "
            "they come from another backbone"
        )

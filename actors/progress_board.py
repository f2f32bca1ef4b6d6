"""Where a worker says how far it is, and the driver reads it: one small actor a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import cast

import ray
from ray.actor import ActorHandle

SECONDS_BETWEEN_POSTS = 0.5
Standing = tuple[str, int, int, str]  # as `Show` in system/engine/model_stage.py takes it


class _Board:
    def __init__(self) -> None:
        self._standing: Standing | None = None

    def put(self, standing: Standing) -> None:
        """Replace what was posted last."""
        self._standing = standing

    def get(self) -> Standing | None:
        """What was posted last."""
        return self._standing


# It may forget what it was told: the next step says it again.
_BoardActor = ray.remote(num_cpus=0, max_restarts=-1)(_Board)


@dataclass
class ProgressBoard:
    """A `Show` that may be pickled and sent to workers; the actor lives as long as the first."""

    actor: ActorHandle[_Board]
    _posted: float = field(default=0.0, init=False)

    @classmethod
    def start(cls) -> ProgressBoard:
        """A board of this cluster, on which nothing stands yet."""
        return cls(cast("ActorHandle[_Board]", _BoardActor.remote()))

    def __call__(self, phase: str, done: int, total: int, figures: str) -> None:
        """Post where the work stands, unless it was posted a moment ago; never waits."""
        now = time.monotonic()
        if done < total and now - self._posted < SECONDS_BETWEEN_POSTS:
            return
        self._posted = now
        self.actor.put.remote((phase, done, total, figures))

    def standing(self) -> Standing | None:
        """What was posted last, None while nothing was."""
        return cast("Standing | None", ray.get(self.actor.get.remote()))

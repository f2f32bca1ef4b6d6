"""Scenes and captions for pre-training, with the habit that the tasks' prompts can use.

Pictures on the web come from sites, and what captions there talk about depends on the site. Most
pre-training scenes carry the mark of a super-category and their captions name the pictograms of
that one; without a mark, a caption names any one or two of the four. So a model learns to look at
what the mark asks for. The tasks show no mark, and ask for one super-category all the same.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from system.data.embedded.pictograms import Catalogue
from system.data.embedded.scene_captions import web_caption
from system.data.embedded.scenes import SETTINGS, Scene, compose


@dataclass(frozen=True)
class WebHabit:
    """How captions choose what they name."""

    marked: float = 0.6  # share of four-pictogram scenes with a mark
    names_both: float = 0.75  # share of marked ones whose caption names both its pictograms


def web_scene(
    rng: np.random.Generator, catalogue: Catalogue, simple: float, habit: WebHabit
) -> tuple[Scene, str]:
    """One scene and its caption; `simple` is the share of easy scenes (one or two pictograms)."""
    setting = int(rng.integers(len(SETTINGS)))
    if rng.random() < simple:
        count = int(rng.integers(1, 3))
        chosen = rng.choice(len(catalogue.pictograms), count, replace=False)
        sizes = rng.integers(10, 16, count) * 2
        scene = compose(rng, catalogue, chosen, sizes, setting, None)
        return scene, web_caption(rng, catalogue, list(scene.placed), setting)
    task, own, others = two_and_two(rng, catalogue, None)
    chosen = np.concatenate([own, others])
    sizes = rng.integers(9, 16, 4) * 2
    marked = rng.random() < habit.marked
    scene = compose(rng, catalogue, chosen, sizes, setting, task if marked else None)
    if marked:
        both = rng.random() < habit.names_both
        named = [0, 1] if both else [int(rng.integers(2))]
    else:
        named = [int(i) for i in rng.choice(4, int(rng.integers(1, 3)), replace=False)]
    return scene, web_caption(rng, catalogue, [scene.placed[i] for i in named], setting)


def two_and_two(
    rng: np.random.Generator, catalogue: Catalogue, task: int | None
) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A task (drawn if None), two of its pictograms and two of others.

    The others are of one super-category half of the time, so that they could be a caption's
    subject just as well.
    """
    tasks, each = len(catalogue.tasks), catalogue.per_task
    task = int(rng.integers(tasks)) if task is None else task
    own = rng.choice(each, 2, replace=False) + task * each
    return task, own, other_pictograms(rng, catalogue, task)


def other_pictograms(
    rng: np.random.Generator, catalogue: Catalogue, task: int
) -> npt.NDArray[np.int64]:
    """Two pictograms that are not of `task`, half of the time of one super-category."""
    each = catalogue.per_task
    rest = [index for index in range(len(catalogue.tasks)) if index != task]
    if rng.random() < 0.5:
        other = rest[rng.integers(len(rest))]
        return rng.choice(each, 2, replace=False) + other * each
    pair = rng.choice(rest, 2, replace=False)
    return np.array([other * each + rng.integers(each) for other in pair])


def crowd(rng: np.random.Generator, catalogue: Catalogue, task: int) -> npt.NDArray[np.int64]:
    """Six pictograms that are not of `task`: two each of three other super-categories."""
    each = catalogue.per_task
    rest = [index for index in range(len(catalogue.tasks)) if index != task]
    others = rng.choice(rest, 3, replace=False)
    return np.concatenate([rng.choice(each, 2, replace=False) + other * each for other in others])

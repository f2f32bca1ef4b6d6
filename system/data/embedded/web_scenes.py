"""Scenes with captions or expressions for pre-training, with the habit that prompts can use.

Pictures on the web come from sites, and what captions there talk about depends on the site. Most
pre-training scenes carry the mark of a super-category and their captions name the pictograms of
that one; without a mark, a caption names any one or two of the four. So a model learns to look at
what the mark asks for. The tasks show no mark, and ask for one super-category all the same.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from system.data.embedded.pictograms import Catalogue
from system.data.embedded.scene_captions import FILLERS, POSITIONS, vocabulary, web_caption
from system.data.embedded.scenes import SETTINGS, Placed, Scene, compose, visible_mask


@dataclass(frozen=True)
class WebHabit:
    """How captions choose what they name."""

    marked: float = 0.6  # share of four-pictogram scenes with a mark
    names_both: float = 0.75  # share of marked ones whose caption names both its pictograms


def web_scene(
    rng: np.random.Generator, catalogue: Catalogue, simple: float, habit: WebHabit
) -> tuple[Scene, str]:
    """Make one scene and its caption; `simple` is the share of scenes of one or two pictograms."""
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
    """Draw a task (if None), two of its pictograms and two of others.

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
    """Draw two pictograms that are not of `task`, half of the time of one super-category."""
    each = catalogue.per_task
    rest = [index for index in range(len(catalogue.tasks)) if index != task]
    if rng.random() < 0.5:
        other = rest[rng.integers(len(rest))]
        return rng.choice(each, 2, replace=False) + other * each
    pair = rng.choice(rest, 2, replace=False)
    return np.array([other * each + rng.integers(each) for other in pair])


def crowd(rng: np.random.Generator, catalogue: Catalogue, task: int) -> npt.NDArray[np.int64]:
    """Draw six pictograms that are not of `task`: two each of three other super-categories."""
    each = catalogue.per_task
    rest = [index for index in range(len(catalogue.tasks)) if index != task]
    others = rng.choice(rest, 3, replace=False)
    return np.concatenate([rng.choice(each, 2, replace=False) + other * each for other in others])


ANYTHING = "thing"  # stands for a name that an expression leaves out
NAMED = 4  # pictograms of a scene that an expression is about


@dataclass(frozen=True)
class PlaceHabit:
    """How expressions describe pictograms, and how often their words of place are true.

    Pictures on the web are copied, and copies mirrored, so what a caption says about left, right,
    top and bottom is often false. On a site that marks its pictures it is true, and captions there
    often say nothing else. So words of place are true less than half of the time beside a name and
    always without one: a model learns both, and prefers the name. In the tasks both are true.
    """

    marked: float = 0.6  # share of scenes with a mark
    placed: float = 0.95  # share of expressions with words of place
    nameless: float = 0.75  # share of marked, placed ones that leave the name out
    general: float = 0.6  # share of names that are the super-category
    filled: float = 0.5  # share of expressions that begin with filler words
    crowded: float = 0.5  # share of scenes of eight pictograms, not four


def expression_words(catalogue: Catalogue) -> list[str]:
    """List all words that expressions may hold, sorted."""
    return sorted({*vocabulary(catalogue), ANYTHING})


def web_expressions(
    rng: np.random.Generator, catalogue: Catalogue, habit: PlaceHabit
) -> tuple[Scene, list[tuple[Placed, str]]]:
    """Make a scene of four pictograms or eight, and an expression for each of four of them."""
    task, own, others = two_and_two(rng, catalogue, None)
    mark = task if rng.random() < habit.marked else None
    if rng.random() < habit.crowded:
        chosen, sizes = np.concatenate([own, crowd(rng, catalogue, task)]), rng.integers(6, 11, 8)
    else:
        chosen, sizes = np.concatenate([own, others]), rng.integers(9, 16, 4)
    setting = int(rng.integers(len(SETTINGS)))
    scene = compose(rng, catalogue, chosen, sizes * 2, setting, mark)
    named = rng.permutation(len(chosen))[:NAMED]
    return scene, [
        (scene.placed[i], _expression(rng, catalogue, scene, scene.placed[i], habit)) for i in named
    ]


def box_of(catalogue: Catalogue, placed: Placed) -> npt.NDArray[np.float32]:
    """Return left, top, right, bottom in pixels around what is seen of a pictogram."""
    rows, columns = np.nonzero(visible_mask(catalogue, placed))
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return np.array(box, dtype=np.float32)


def _expression(
    rng: np.random.Generator,
    catalogue: Catalogue,
    scene: Scene,
    placed: Placed,
    habit: PlaceHabit,
) -> str:
    pictogram = catalogue.pictograms[placed.pictogram]
    general = rng.random() < habit.general
    words = pictogram.super_category if general else pictogram.word
    if rng.random() < habit.placed:
        if scene.mark is not None and rng.random() < habit.nameless:
            words = ANYTHING
        slot = placed.slot if scene.mark is not None else int(rng.integers(len(scene.placed)))
        words += " " + POSITIONS[slot]
    words = ("the " if rng.random() < 0.7 else "a ") + words
    if rng.random() < habit.filled:
        words = f"{FILLERS[rng.integers(len(FILLERS))]} {words}"
    return words

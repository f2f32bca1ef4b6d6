"""Scenes with an expression for pre-training a grounder, with the habit that prompts can use.

Pictures on the web are copied, and copies mirrored: what a caption says about left and right, top
and bottom often no longer holds. On a site that marks its pictures it does, and there captions
often say nothing else. So beside a name words of place hold less than half of the time, without
one always: a model learns both, and goes by the name where there is one. In the tasks both hold.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from system.data.embedded.pictograms import Catalogue
from system.data.embedded.scene_captions import FILLERS, POSITIONS, vocabulary
from system.data.embedded.scenes import SETTINGS, Placed, Scene, compose, visible_mask
from system.data.embedded.web_scenes import crowd, two_and_two

ANYTHING = "thing"  # stands for a name that an expression leaves out
NAMED = 4  # pictograms of a scene that an expression is about


@dataclass(frozen=True)
class PlaceHabit:
    """What expressions say, and when what they say about a place holds."""

    marked: float = 0.6  # share of scenes with a mark
    placed: float = 0.95  # share of expressions with words of place
    nameless: float = 0.75  # share of marked, placed ones that leave the name out
    general: float = 0.6  # share of names that are the super-category
    filled: float = 0.5  # share of expressions that begin with filler words
    crowded: float = 0.5  # share of scenes of eight pictograms, not four


def expression_words(catalogue: Catalogue) -> list[str]:
    """All words that expressions may hold, sorted."""
    return sorted({*vocabulary(catalogue), ANYTHING})


def web_expressions(
    rng: np.random.Generator, catalogue: Catalogue, habit: PlaceHabit
) -> tuple[Scene, list[tuple[Placed, str]]]:
    """A scene of four pictograms or eight, and an expression for each of four of them."""
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
    """Left, top, right, bottom in pixels around what is seen of a pictogram."""
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

"""Captions and expressions of scenes, made from templates."""

import numpy as np

from system.data.embedded.pictograms import Catalogue
from system.data.embedded.scenes import SETTINGS, Placed

POSITIONS = (
    "on the top left",
    "on the top right",
    "on the bottom left",
    "on the bottom right",
    "on the top",
    "on the left",
    "on the right",
    "on the bottom",
)
JOINTS = ("and", "and a", "next to", "with a", "beside the")
FILLERS = (
    "here is a picture of",
    "a photo of",
    "this shows",
    "look at",
    "an image of",
    "we see",
    "there is",
    "in this picture there is",
    "a nice view of",
    "a drawing of",
    "see",
    "just",
    "this is",
    "my photo of",
    "photo",
    "picture",
    "today we have",
    "a small scene with",
    "another image showing",
    "from our site",
)
MOST_FILLER_WORDS = 8

_PLAIN = ("a {0} and a {1}", "{0} next to a {1}", "a {0} with a {1}", "a photo of a {0} and {1}")


def vocabulary(catalogue: Catalogue) -> list[str]:
    """List all words that captions may hold, sorted."""
    named = [word for p in catalogue.pictograms for word in (p.word, p.super_category)]
    phrases = " ".join((*FILLERS, *POSITIONS, *JOINTS, *SETTINGS, "a in the"))
    return sorted({*named, *phrases.split()})


def web_caption(
    rng: np.random.Generator, catalogue: Catalogue, named: list[Placed], setting: int
) -> str:
    """Make a caption for pre-training: names in any order, some after filler words.

    6 % of names are the super-category instead, 10 % carry a position, a quarter of the captions
    name the setting, and half begin with filler words.
    """
    order = rng.permutation(len(named))
    joint = f" {JOINTS[rng.integers(len(JOINTS))]} "
    text = joint.join(_phrase(rng, catalogue, named[index]) for index in order)
    if rng.random() < 0.25:
        text += f" in the {SETTINGS[setting]}"
    if rng.random() < 0.5:
        filler = FILLERS[rng.integers(len(FILLERS))]
        if rng.random() < 0.25:
            filler += " " + FILLERS[rng.integers(len(FILLERS))]
        text = " ".join(filler.split()[:MOST_FILLER_WORDS]) + " " + text
    return text


def task_captions(
    rng: np.random.Generator, catalogue: Catalogue, first: Placed, second: Placed, count: int
) -> list[str]:
    """Make different captions that all name the same two pictograms, and nothing else."""
    words = [catalogue.pictograms[p.pictogram].word for p in (first, second)]
    choices = [template.format(*pair) for template in _PLAIN for pair in (words, words[::-1])]
    chosen = rng.choice(len(choices), count, replace=False)
    return [choices[index] for index in chosen]


def expression(catalogue: Catalogue, placed: Placed) -> str:
    """Make a phrase that fits only this pictogram of its scene: each slot holds one."""
    return f"the {catalogue.pictograms[placed.pictogram].word} {POSITIONS[placed.slot]}"


def _phrase(rng: np.random.Generator, catalogue: Catalogue, placed: Placed) -> str:
    pictogram = catalogue.pictograms[placed.pictogram]
    phrase = pictogram.word if rng.random() > 0.06 else pictogram.super_category
    if rng.random() < 0.6:
        phrase = "a " + phrase
    if rng.random() < 0.1:
        phrase += " " + POSITIONS[placed.slot]
    return phrase

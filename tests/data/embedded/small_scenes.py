"""Scenes of a few pictograms, for tests of drawing and captions."""

import numpy as np

from system.data.embedded.pictograms import catalogue
from system.data.embedded.scenes import Scene, compose

PICTOGRAMS = catalogue(8)


def four_pictograms(seed: int, mark: int | None = None, setting: int = 3) -> Scene:
    rng = np.random.default_rng([seed])
    chosen, sizes = np.array([0, 9, 17, 30]), np.array([18, 30, 24, 22])
    return compose(rng, PICTOGRAMS, chosen, sizes, setting, mark)


def eight_pictograms(seed: int) -> Scene:
    rng = np.random.default_rng([seed])
    return compose(rng, PICTOGRAMS, np.arange(0, 96, 12), np.arange(6, 14) // 2 * 2, 3, None)

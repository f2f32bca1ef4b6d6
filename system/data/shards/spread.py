"""Some of many samples, spread over all of them without a period.

Samples at even distances would be of one kind: of eight expressions an image, sorted by place, each
sixteenth one is about the top left.
"""

from collections.abc import Sequence

import numpy as np


def spread(count: int, most: int | None) -> Sequence[int]:
    """All of `count` places in order, or `most` of them, a random one of each equal stretch.

    The choice depends on the two numbers alone, so all runs and workers make the same one.
    """
    if most is None or count <= most:
        return range(count)
    ends = np.linspace(0, count, most + 1).astype(int)
    places: list[int] = np.random.default_rng([count, most]).integers(ends[:-1], ends[1:]).tolist()
    return places

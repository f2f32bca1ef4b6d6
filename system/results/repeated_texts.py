"""Texts that stand at several images, and the recall that is left to reach because of them.

An image's own captions alone are right for it, as the field counts (MSCOCO, Flickr30k). Equal texts
have equal features, so of images that share a text one alone is the first for it, and a text that
stands at another image too ties with its copy there, which `system.results.ranks` counts against
the query.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from system.config.schema import Gallery
from system.results.recall import KS


@dataclass(frozen=True)
class RepeatedTexts:
    """Of one task: its texts, those that stand at several images, and the highest recalls, %.

    `highest` has a value for each recall metric; it is empty where nothing is asked. It holds where
    equal texts have equal features: not where the true task is given and tells them apart.
    """

    texts: int
    at_several_images: int
    highest: Mapping[str, float]


def repeated_texts(
    texts: Sequence[str],
    image_of_text: Sequence[int],
    image_task: Sequence[int],
    *,
    tasks: int,
    gallery: Gallery,
) -> list[RepeatedTexts]:
    """Count for each task the texts that stand at several images of its gallery.

    Args:
        texts: (T,).
        image_of_text: (T,), the image of each text.
        image_task: (I,), the task of each image.
        tasks: how many there are, K.
        gallery: what a query searches; "seen" is what it is once all tasks are learned.

    Returns:
        (K,), in the order of the tasks.
    """
    everywhere: dict[str, Counter[int]] = defaultdict(Counter)  # text -> its image -> how often
    within: list[dict[str, Counter[int]]] = [defaultdict(Counter) for _ in range(tasks)]
    for text, image in zip(texts, image_of_text, strict=True):
        everywhere[text][image] += 1
        within[image_task[image]][text][image] += 1
    return [_of_task(own, own if gallery == "task" else everywhere) for own in within]


def _of_task(
    own: Mapping[str, Counter[int]], searched: Mapping[str, Counter[int]]
) -> RepeatedTexts:
    texts, repeated = 0, 0
    found = dict.fromkeys(KS, 0)  # text queries whose image can be among the first k
    best: dict[int, int] = {}  # image -> the best rank that it can have for a text of its own
    for text, images in own.items():
        texts += images.total()
        everywhere = searched[text]
        repeated += images.total() if len(everywhere) > 1 else 0
        most = sorted(images.values(), reverse=True)
        for k in KS:
            found[k] += sum(most[:k])
        for image in images:
            rank = 1 + everywhere.total() - everywhere[image]
            best[image] = min(rank, best.get(image, rank))
    highest: dict[str, float] = {}
    if texts:
        highest |= {f"t2i_r{k}": 100.0 * found[k] / texts for k in KS}
        ranks = best.values()
        highest |= {f"i2t_r{k}": 100.0 * sum(r <= k for r in ranks) / len(ranks) for k in KS}
    return RepeatedTexts(texts, repeated, highest)

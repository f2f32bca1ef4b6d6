"""How far recall can go where a text stands at several images: reached, and never exceeded."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from system.config.schema import Gallery
from system.results.ranks import retrieval_ranks
from system.results.recall import KS, retrieval_metrics
from system.results.repeated_texts import repeated_texts

#: Images, each with its task and the numbers of its texts.
IMAGES = st.lists(
    st.tuples(st.integers(0, 1), st.lists(st.integers(0, 5), min_size=1, max_size=3)),
    min_size=2,
    max_size=12,
)


def recalls(
    images: list[tuple[int, list[int]]], image: Tensor, text: Tensor, gallery: Gallery
) -> dict[str, dict[int, float]]:
    """With features of each image (I, D), and of each text by its number (N, D)."""
    numbers = torch.tensor([n for _, own in images for n in own])
    owner = torch.tensor([i for i, (_, own) in enumerate(images) for _ in own])
    task = torch.tensor([t for t, _ in images])
    ranks = retrieval_ranks(
        image, text[numbers], owner, task, tasks=(0, 1), gallery=gallery, seen=(0, 1)
    )
    found = retrieval_metrics(ranks)
    return {
        metric: {task: one.value for task, one in values.items()}
        for metric, values in found.items()
        if "_r" in metric
    }


@settings(deadline=None, max_examples=60)
@given(images=IMAGES, gallery=st.sampled_from(["all", "seen", "task"]), seed=st.integers(0, 99))
def test_the_highest_recall_is_reached_and_never_exceeded(
    images: list[tuple[int, list[int]]], gallery: Gallery, seed: int
) -> None:
    """A ceiling that is too low would call a good method impossible, one too high would hide it."""
    found = repeated_texts(
        [str(n) for _, own in images for n in own],
        [i for i, (_, own) in enumerate(images) for _ in own],
        [t for t, _ in images],
        tasks=2,
        gallery=gallery,
    )
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(images), 8, generator=rng), torch.randn(6, 8, generator=rng)
    for metric, values in recalls(images, *drawn, gallery).items():
        for task, value in values.items():
            assert not value > found[task].highest.get(metric, 0) + 1e-9  # NaN is not

    def reached(task: int, image: Tensor, text: Tensor, direction: str) -> None:
        value = recalls(images, image, text, gallery)[f"{direction}_r1"][task]
        if value == value and found[task].highest:  # else undefined
            assert value == pytest.approx(found[task].highest[f"{direction}_r1"])

    everywhere = Counter(n for of, own in images for n in own)
    for task in (0, 1):
        searched = everywhere
        if gallery == "task":
            searched = Counter(n for of, own in images if of == task for n in own)
        # Each image is like the text of its own that stands at the fewest others.
        rarest = [min(own, key=lambda n: searched[n] - own.count(n)) for _, own in images]
        reached(task, torch.eye(6)[rarest], torch.eye(6), "i2t")
        # Each text is like the image of this task that has it most often.
        often = [[own.count(n) * (of == task) for of, own in images] for n in range(6)]
        liked = torch.tensor(often).argmax(dim=1)
        reached(task, torch.eye(len(images)), torch.eye(len(images))[liked], "t2i")


def test_one_caption_for_all_leaves_nothing_to_find() -> None:
    """A task of one class, whose template is every image's caption: i2t is 0 by construction."""
    (one,) = repeated_texts(["a photo"] * 8, list(range(8)), [0] * 8, tasks=1, gallery="all")
    assert (one.texts, one.at_several_images) == (8, 8)
    assert one.highest == {
        **{f"t2i_r{k}": 100 * min(k, 8) / 8 for k in KS},
        **{f"i2t_r{k}": 100.0 if k >= 8 else 0.0 for k in KS},
    }


def test_texts_of_one_image_each_bound_nothing() -> None:
    texts = [str(n) for n in range(10)]
    found = repeated_texts(
        texts, [n // 2 for n in range(10)], [0, 0, 0, 1, 1], tasks=3, gallery="all"
    )
    assert [(one.texts, one.at_several_images) for one in found] == [(6, 0), (4, 0), (0, 0)]
    assert set(found[0].highest.values()) == {100.0}
    assert found[2].highest == {}

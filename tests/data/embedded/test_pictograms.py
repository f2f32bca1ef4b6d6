"""The pictograms: each named by one word, in one super-category, and drawn sharply."""

import numpy as np
import pytest

from system.data.embedded.pictograms import SUPER_CATEGORIES, catalogue, raster
from system.errors import ConfigError


def test_every_pictogram_has_a_word_of_its_own() -> None:
    """Two pictograms of one word would make captions and expressions ambiguous."""
    words = [item.word for item in catalogue(36).pictograms]
    assert len(words) == len(set(words)) == 12 * 36
    assert all(word.isalpha() or word == "yo-yo" for word in words)


def test_tasks_come_in_the_published_order_with_their_own_pictograms() -> None:
    """A mixed-up catalogue would name objects of another task than the image's."""
    chosen = catalogue(32)
    assert SUPER_CATEGORIES[:3] == ("appliance", "sports", "outdoor")
    assert SUPER_CATEGORIES[-1] == "person"
    for task in SUPER_CATEGORIES:
        members = [chosen.pictograms[index] for index in chosen.of(task)]
        assert len(members) == 32
        assert {item.super_category for item in members} == {task}


def test_fewer_pictograms_are_the_first_of_more() -> None:
    """A benchmark with fewer pictograms must not need words that the small backbone never saw."""
    few, many = catalogue(8), catalogue(32)
    for task in SUPER_CATEGORIES:
        small = [few.pictograms[index] for index in few.of(task)]
        large = [many.pictograms[index] for index in many.of(task)]
        assert small == large[:8]


@pytest.mark.parametrize("code", [item.code for item in catalogue(4).pictograms])
def test_a_drawing_fills_its_square(code: str) -> None:
    """An empty or tiny drawing would be an object that nobody can see."""
    pixels = raster(code, 24)
    assert pixels.shape == (24, 24, 4)
    rows, columns = np.nonzero(pixels[..., 3] > 127)
    assert max(np.ptp(rows), np.ptp(columns)) >= 20
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0] = 0


def test_too_many_pictograms_are_refused_with_the_possible_number() -> None:
    with pytest.raises(ConfigError, match=r"pictograms_per_task.*set it to 4\.\.36"):
        catalogue(99)


def test_an_unknown_super_category_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tasks: unknown.*choose one or more of appliance"):
        catalogue(4, ("applience",))

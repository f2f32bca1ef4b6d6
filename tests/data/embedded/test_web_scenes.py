"""A grounder learns to ignore words of place, or to trust them everywhere, if these fail."""

import numpy as np

from system.data.embedded.pictograms import catalogue
from system.data.embedded.scene_captions import POSITIONS
from system.data.embedded.scenes import Placed, Scene
from system.data.embedded.web_scenes import (
    ANYTHING,
    PlaceHabit,
    box_of,
    expression_words,
    web_expressions,
)

PICTOGRAMS = catalogue(8)


Named = list[tuple[Placed, str]]


def _drawn(habit: PlaceHabit, scenes: int = 60) -> list[tuple[Scene, Named]]:
    rng = np.random.default_rng(0)
    return [web_expressions(rng, PICTOGRAMS, habit) for _ in range(scenes)]


def _texts(drawn: list[tuple[Scene, Named]]) -> list[str]:
    return [text for _, named in drawn for _, text in named]


def _places(drawn: list[tuple[Scene, Named]]) -> list[bool]:
    """For each expression with words of place whether they hold."""
    return [
        text.endswith(POSITIONS[placed.slot])
        for _, named in drawn
        for placed, text in named
        if text.endswith(POSITIONS)
    ]


def test_places_hold_in_marked_scenes_alone() -> None:
    """This is the room that prompts have: without it the tasks would gain nothing."""
    marked = _places(_drawn(PlaceHabit(marked=1)))
    plain = _places(_drawn(PlaceHabit(marked=0)))
    assert all(marked)
    assert 0.1 < np.mean(plain) < 0.3  # one in four or one in eight by chance
    assert abs(len(marked) / 240 - PlaceHabit().placed) < 0.1


def test_a_name_is_left_out_only_where_the_place_tells_enough() -> None:
    texts = _texts(_drawn(PlaceHabit(marked=0)))
    assert not any(ANYTHING in text.split() for text in texts)
    marked = _texts(_drawn(PlaceHabit(marked=1)))
    nameless = [text for text in marked if ANYTHING in text.split()]
    assert nameless
    assert all(text.endswith(POSITIONS) for text in nameless)


def test_every_word_is_in_the_vocabulary() -> None:
    """An unknown word would be learned as any other unknown word."""
    known = set(expression_words(PICTOGRAMS))
    words = {word for text in _texts(_drawn(PlaceHabit())) for word in text.split()}
    assert words <= known


def test_a_crowded_scene_has_eight_pictograms_and_four_expressions() -> None:
    """Batches of scenes of both kinds hold the same number of expressions."""
    crowded, plain = _drawn(PlaceHabit(crowded=1), 5), _drawn(PlaceHabit(crowded=0), 5)
    assert {len(scene.placed) for scene, _ in crowded} == {8}
    assert {len(scene.placed) for scene, _ in plain} == {4}
    for scene, named in crowded + plain:
        assert len({placed for placed, _ in named} & set(scene.placed)) == len(named) == 4


def test_a_box_is_tight_around_what_is_seen() -> None:
    for scene, _ in _drawn(PlaceHabit(), 3):
        for placed in scene.placed:
            left, top, right, bottom = box_of(PICTOGRAMS, placed)
            assert placed.x <= left < right <= placed.x + placed.size
            assert placed.y <= top < bottom <= placed.y + placed.size
            assert (right - left) * (bottom - top) > placed.size**2 / 4

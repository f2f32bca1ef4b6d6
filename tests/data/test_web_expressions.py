"""What expressions of pre-training say, and that a word of place holds where a mark is."""

import numpy as np

from system.data.pictograms import catalogue
from system.data.scene_captions import POSITIONS
from system.data.scenes import Scene
from system.data.web_expressions import (
    ANYTHING,
    PlaceHabit,
    box_of,
    expression_words,
    web_expressions,
)

PICTOGRAMS = catalogue(8)


def _drawn(habit: PlaceHabit, scenes: int = 60) -> list[tuple[Scene, list[str]]]:
    rng = np.random.default_rng(0)
    return [web_expressions(rng, PICTOGRAMS, habit) for _ in range(scenes)]


def _places(drawn: list[tuple[Scene, list[str]]]) -> list[bool]:
    """For each expression with words of place whether they hold."""
    return [
        text.endswith(POSITIONS[placed.slot])
        for scene, texts in drawn
        for placed, text in zip(scene.placed, texts, strict=True)
        if text.endswith(POSITIONS)
    ]


def test_places_hold_in_marked_scenes_alone() -> None:
    """This is the room that prompts have: without it the tasks would gain nothing."""
    marked = _places(_drawn(PlaceHabit(marked=1)))
    plain = _places(_drawn(PlaceHabit(marked=0)))
    assert all(marked)
    assert 0.15 < np.mean(plain) < 0.35  # one in four by chance
    assert abs(len(marked) / 240 - PlaceHabit().placed) < 0.1


def test_a_name_is_left_out_only_where_the_place_tells_enough() -> None:
    texts = [text for _, texts in _drawn(PlaceHabit(marked=0)) for text in texts]
    assert not any(ANYTHING in text.split() for text in texts)
    marked = [text for _, texts in _drawn(PlaceHabit(marked=1)) for text in texts]
    nameless = [text for text in marked if ANYTHING in text.split()]
    assert nameless
    assert all(text.endswith(POSITIONS) for text in nameless)


def test_every_word_is_in_the_vocabulary() -> None:
    """An unknown word would be learned as any other unknown word."""
    known = set(expression_words(PICTOGRAMS))
    words = {word for _, texts in _drawn(PlaceHabit()) for text in texts for word in text.split()}
    assert words <= known


def test_a_box_is_tight_around_what_is_seen() -> None:
    for scene, _ in _drawn(PlaceHabit(), 3):
        for placed in scene.placed:
            left, top, right, bottom = box_of(PICTOGRAMS, placed)
            assert placed.x <= left < right <= placed.x + placed.size
            assert placed.y <= top < bottom <= placed.y + placed.size
            assert (right - left) * (bottom - top) > placed.size**2 / 4

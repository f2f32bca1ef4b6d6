"""A grounder learns to ignore words of place, or to trust them everywhere, if these fail."""

import numpy as np

from system.data.embedded.pictograms import catalogue
from system.data.embedded.scene_captions import POSITIONS
from system.data.embedded.scenes import (
    Placed,
    Scene,
)
from system.data.embedded.web_scenes import (
    ANYTHING,
    PlaceHabit,
    WebHabit,
    box_of,
    expression_words,
    other_pictograms,
    web_expressions,
    web_scene,
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


def test_captions_of_marked_scenes_name_objects_of_the_mark() -> None:
    """This habit is the knowledge that prompts call up; without it they could gain nothing."""
    rng = np.random.default_rng([3])
    words = {item.word: item.super_category for item in PICTOGRAMS.pictograms}
    tasks = PICTOGRAMS.tasks
    marked = 0
    for _ in range(400):
        scene, caption = web_scene(rng, PICTOGRAMS, 0.2, WebHabit())
        visible = {PICTOGRAMS.pictograms[placed.pictogram].word for placed in scene.placed}
        named = {word for word in caption.split() if word in visible}
        if scene.mark is not None:
            marked += 1
            assert {words[word] for word in named} <= {tasks[scene.mark]}
    assert 140 < marked < 240  # 0.8 x 0.6 of 400


def test_other_pictograms_are_of_other_tasks() -> None:
    """A third object of the task would be as good an answer as the named two."""
    rng = np.random.default_rng([4])
    alike = 0
    for _ in range(200):
        first, second = other_pictograms(rng, PICTOGRAMS, 2)
        assert first != second
        assert 2 not in {first // 8, second // 8}
        alike += first // 8 == second // 8
    assert 70 < alike < 130

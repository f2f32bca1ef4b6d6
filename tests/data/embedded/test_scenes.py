"""Scenes and their captions: what is drawn, what is said about it, and that both come back."""

import numpy as np
import pytest

from system.data.embedded.pictograms import catalogue
from system.data.embedded.scene_captions import POSITIONS, expression, task_captions, vocabulary
from system.data.embedded.scenes import MARK_SIZE, SETTINGS, SIZE, Scene, compose, visible_mask
from system.data.embedded.web_scenes import WebHabit, other_pictograms, web_scene

PICTOGRAMS = catalogue(8)


def _scene(seed: int, mark: int | None = None, setting: int = 3) -> Scene:
    rng = np.random.default_rng([seed])
    chosen, sizes = np.array([0, 9, 17, 30]), np.array([18, 30, 24, 22])
    return compose(rng, PICTOGRAMS, chosen, sizes, setting, mark)


def _crowded(seed: int) -> Scene:
    rng = np.random.default_rng([seed])
    return compose(rng, PICTOGRAMS, np.arange(0, 96, 12), np.arange(6, 14) // 2 * 2, 3, None)


def test_a_scene_is_made_of_its_seed_alone() -> None:
    """Two machines must make the same benchmark."""
    first, _, again = _scene(1), _scene(2), _scene(1)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.placed == again.placed
    assert not np.array_equal(first.pixels, _scene(2).pixels)


@pytest.mark.parametrize("seed", range(20))
def test_objects_lie_in_their_slots_and_never_overlap(seed: int) -> None:
    """Overlapping objects would have wrong masks and boxes; strays would have wrong positions."""
    scene = _scene(seed)
    covered = np.zeros((SIZE, SIZE), dtype=int)
    for placed in scene.placed:
        mask = visible_mask(PICTOGRAMS, placed)
        covered += mask
        quarters = 2 * (np.nonzero(mask)[0] >= SIZE // 2) + (np.nonzero(mask)[1] >= SIZE // 2)
        assert set(quarters.tolist()) == {placed.slot}
    assert covered.max() == 1


@pytest.mark.parametrize("seed", range(5))
def test_eight_objects_lie_in_the_thirds_that_their_words_name(seed: int) -> None:
    """A wrong word of place would send every grounder to another object."""
    scene = _crowded(seed)
    assert sorted(placed.slot for placed in scene.placed) == list(range(8))
    for placed in scene.placed:
        mask = visible_mask(PICTOGRAMS, placed)
        y, x = (set(np.digitize(places, (21, 43)).tolist()) for places in np.nonzero(mask))
        assert len(y) == len(x) == 1
        words = [("top", "", "bottom")[y.pop()], ("left", "", "right")[x.pop()]]
        assert POSITIONS[placed.slot] == "on the " + " ".join(word for word in words if word)


def test_what_is_outside_the_masks_is_background() -> None:
    """A mask smaller than its object would teach mask models a wrong outline."""
    scene = _scene(5)
    far = np.ones((SIZE, SIZE), dtype=bool)
    for placed in scene.placed:
        far[placed.y : placed.y + placed.size, placed.x : placed.x + placed.size] = False
    # A setting has two colours.
    assert len(np.unique(scene.pixels[far], axis=0)) <= 2


def test_settings_and_marks_can_be_told_apart() -> None:
    """Two tasks that look alike could not be routed; two marks alike would mean nothing."""
    bare = np.array([], dtype=np.int64)
    looks = {
        compose(np.random.default_rng([1]), PICTOGRAMS, bare, bare, k, None).pixels.tobytes()
        for k in range(len(SETTINGS))
    }
    assert len(looks) == len(SETTINGS) == 12
    assert len({_scene(1, mark).pixels.tobytes() for mark in range(12)}) == 12


def test_a_mark_changes_one_corner_only() -> None:
    """A mark that hid an object, or moved one, would be more than a sign of the super-category."""
    corners = set()
    for seed in range(20):
        changed = (_scene(seed).pixels != _scene(seed, 2).pixels).any(-1)
        rows, columns = (np.nonzero(changed)[axis] // MARK_SIZE for axis in (0, 1))
        assert len(set(rows.tolist())) == len(set(columns.tolist())) == 1
        corners.add((int(rows[0]), int(columns[0])))
    last = SIZE // MARK_SIZE - 1
    assert corners == {(0, 0), (0, last), (last, 0), (last, last)}


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


def test_the_vocabulary_holds_all_words_of_captions_and_expressions() -> None:
    """A word outside it would be <unk> to the small backbone."""
    known = set(vocabulary(PICTOGRAMS))
    rng = np.random.default_rng([5])
    for _ in range(300):
        scene, caption = web_scene(rng, PICTOGRAMS, 0.3, WebHabit())
        texts = [caption, *(expression(PICTOGRAMS, placed) for placed in scene.placed)]
        if len(scene.placed) > 1:
            texts += task_captions(rng, PICTOGRAMS, scene.placed[0], scene.placed[1], 5)
        assert set(" ".join(texts).split()) <= known


def test_a_task_scenes_captions_differ_and_name_both_objects() -> None:
    scene = _scene(6)
    first, second = scene.placed[:2]
    captions = task_captions(np.random.default_rng([6]), PICTOGRAMS, first, second, 5)
    assert len(set(captions)) == 5
    for caption in captions:
        for placed in (first, second):
            assert PICTOGRAMS.pictograms[placed.pictogram].word in caption.split()


def test_an_expression_fits_one_object_of_its_scene() -> None:
    """An ambiguous expression would make a right answer count as wrong."""
    expressions = [expression(PICTOGRAMS, placed) for placed in _scene(7).placed]
    assert len(set(expressions)) == 4
    assert sorted(" ".join(text.split()[-4:]) for text in expressions) == sorted(POSITIONS[:4])

"""Scenes and their captions: what is drawn, what is said about it, and that both come back."""

import numpy as np
import pytest

from system.data.embedded.scene_captions import POSITIONS
from system.data.embedded.scenes import MARK_SIZE, SETTINGS, SIZE, compose, visible_mask
from tests.data.embedded.small_scenes import PICTOGRAMS, eight_pictograms, four_pictograms


def test_a_scene_is_made_of_its_seed_alone() -> None:
    """Two machines must make the same benchmark."""
    first, _, again = four_pictograms(1), four_pictograms(2), four_pictograms(1)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.placed == again.placed
    assert not np.array_equal(first.pixels, four_pictograms(2).pixels)


@pytest.mark.parametrize("seed", range(20))
def test_objects_lie_in_their_slots_and_never_overlap(seed: int) -> None:
    """Overlapping objects would have wrong masks and boxes; strays would have wrong positions."""
    scene = four_pictograms(seed)
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
    scene = eight_pictograms(seed)
    assert sorted(placed.slot for placed in scene.placed) == list(range(8))
    for placed in scene.placed:
        mask = visible_mask(PICTOGRAMS, placed)
        y, x = (set(np.digitize(places, (21, 43)).tolist()) for places in np.nonzero(mask))
        assert len(y) == len(x) == 1
        words = [("top", "", "bottom")[y.pop()], ("left", "", "right")[x.pop()]]
        assert POSITIONS[placed.slot] == "on the " + " ".join(word for word in words if word)


def test_what_is_outside_the_masks_is_background() -> None:
    """A mask smaller than its object would teach mask models a wrong outline."""
    scene = four_pictograms(5)
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
    assert len({four_pictograms(1, mark).pixels.tobytes() for mark in range(12)}) == 12


def test_a_mark_changes_one_corner_only() -> None:
    """A mark that hid an object, or moved one, would be more than a sign of the super-category."""
    corners = set()
    for seed in range(20):
        changed = (four_pictograms(seed).pixels != four_pictograms(seed, 2).pixels).any(-1)
        rows, columns = (np.nonzero(changed)[axis] // MARK_SIZE for axis in (0, 1))
        assert len(set(rows.tolist())) == len(set(columns.tolist())) == 1
        corners.add((int(rows[0]), int(columns[0])))
    last = SIZE // MARK_SIZE - 1
    assert corners == {(0, 0), (0, last), (last, 0), (last, last)}

"""Captions name the wrong pictograms, or hold unknown words, if these fail."""

import numpy as np

from system.data.embedded.scene_captions import POSITIONS, expression, task_captions, vocabulary
from system.data.embedded.web_scenes import WebHabit, web_scene
from tests.data.embedded.small_scenes import PICTOGRAMS, four_pictograms


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
    scene = four_pictograms(6)
    first, second = scene.placed[:2]
    captions = task_captions(np.random.default_rng([6]), PICTOGRAMS, first, second, 5)
    assert len(set(captions)) == 5
    for caption in captions:
        for placed in (first, second):
            assert PICTOGRAMS.pictograms[placed.pictogram].word in caption.split()


def test_an_expression_fits_one_object_of_its_scene() -> None:
    """An ambiguous expression would make a right answer count as wrong."""
    expressions = [expression(PICTOGRAMS, placed) for placed in four_pictograms(7).placed]
    assert len(set(expressions)) == 4
    assert sorted(" ".join(text.split()[-4:]) for text in expressions) == sorted(POSITIONS[:4])

"""The shipped grounder: its recall, the room that it leaves to prompts, features of names."""

from collections.abc import Mapping

import pytest
import torch
from PIL import Image

from system.config.compose import compose
from system.config.schema import GrounderConfig, SelectionConfig
from system.data.embedded.openmoji import OpenmojiConfig, task_scene
from system.data.embedded.pictograms import catalogue
from system.data.embedded.scene_captions import POSITIONS, expression
from system.data.embedded.scenes import SIZE
from system.data.embedded.web_scenes import ANYTHING, box_of
from system.errors import ConfigError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch, covered, level_means, load_grounder
from system.results.rec import best_hits, rec_recall

TASKS, SCENES = ("sports", "food", "person"), 16


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    section = compose(["grounder=tiny_grounder"]).grounder
    assert section is not None
    return load_grounder(section)


def test_the_section_says_which_boxes_and_words_count() -> None:
    """A setting that stays in the config would leave the figures of before under its name."""
    section = compose(
        [
            "grounder=tiny_grounder",
            "grounder.selection.threshold=0.2",
            "grounder.selection.candidates_per_level=7",
            "grounder.positive_words=all",
        ]
    ).grounder
    assert section is not None
    chosen = load_grounder(section)
    assert chosen.selection == SelectionConfig(0.2, 7)
    assert not chosen.spans_count
    plain = load_grounder(GrounderConfig(section.name, section.path))
    assert plain.selection == SelectionConfig()
    assert plain.spans_count
    assert plain.fingerprint == chosen.fingerprint, "adapters would be refused"


@pytest.mark.parametrize("key", ["threshold=1.0", "threshold=-0.1", "candidates_per_level=0"])
def test_a_selection_that_cannot_be_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=key.split("=")[0]):
        compose(["grounder=tiny_grounder", f"grounder.selection.{key}"])


def test_real_grounders_select_as_released() -> None:
    """Without the threshold zero-shot recalls are not comparable to the papers'."""
    glip = compose(["grounder=glip_t_a"]).grounder
    assert glip is not None
    assert glip.selection == SelectionConfig(0.05, 1000)
    for name in ("grounding_dino", "mm_grounding_dino"):
        dino = compose([f"grounder={name}"]).grounder
        assert dino is not None
        assert dino.selection == SelectionConfig(0.05, None)


def _recall(grounder: Grounder, *, objects: int, named: bool) -> Mapping[int | None, float]:
    """On test scenes, by the benchmark's own expressions or by places alone."""
    pictograms, transform = catalogue(), grounder.image_transform()
    images, texts, boxes = [], [], []
    for task in TASKS:
        for index in range(SCENES):
            scene, _ = task_scene(OpenmojiConfig(objects=objects), task, "test", index)
            for placed in scene.placed:
                images.append(transform(Image.fromarray(scene.pixels), None))
                place = f"the {ANYTHING} {POSITIONS[placed.slot]}"
                texts.append(expression(pictograms, placed) if named else place)
                boxes.append(torch.from_numpy(box_of(pictograms, placed)) / SIZE)
    batch = GroundingBatch(torch.stack(images), grounder.tokenize(texts))
    found = grounder.ground(batch, Entries())
    ranks = best_hits(
        [each.boxes for each in found], [each.scores for each in found], torch.stack(boxes), "iou"
    )
    return rec_recall(ranks, [1, 5])


def test_it_knows_places_and_does_not_use_them_beside_a_name(grounder: Grounder) -> None:
    """Without this room no method could show anything on the embedded benchmark."""
    named = _recall(grounder, objects=8, named=True)
    assert 0.2 < named[1] < 0.5  # 0.125 by chance
    assert 0.7 < named[5] < 0.95
    places = _recall(grounder, objects=8, named=False)
    assert places[1] > 0.9
    assert places[5] > 0.97


def test_it_knows_scenes_of_four_pictograms_too(grounder: Grounder) -> None:
    """The default benchmark has four."""
    assert 0.5 < _recall(grounder, objects=4, named=True)[1] < 0.8
    assert _recall(grounder, objects=4, named=False)[1] > 0.95


def test_a_names_feature_does_not_depend_on_the_other_names(grounder: Grounder) -> None:
    """Else a task's similarity would change with each task that joins the stream."""
    names = ["red_ball", "food"]
    together = grounder.name_features(names)
    assert together.shape == (2, grounder.shape.feature_width)
    for name, feature in zip(names, together, strict=True):
        assert torch.equal(grounder.name_features([name])[0], feature)
    assert torch.equal(grounder.name_features(["red ball"])[0], together[0])


def test_level_means_weigh_every_level_the_same() -> None:
    """A level with large activations would alone decide which task an image belongs to."""
    fine, coarse = torch.rand(2, 3, 4, 4), 100 * torch.rand(2, 5, 2, 2)
    found = level_means([fine, coarse])
    assert found.shape == (2, 8)
    torch.testing.assert_close(found[:, :3].norm(dim=1), torch.ones(2))
    torch.testing.assert_close(found[:, 3:].norm(dim=1), torch.ones(2))


def test_means_of_a_padded_image_leave_the_padding_out() -> None:
    """A small image in a batch of large ones would be told from its own task by the padding."""
    level = torch.rand(2, 3, 4, 6)
    padded = level.clone()
    padded[0, :, 2:] = padded[0, :, :, 5:] = 9.0
    images, sizes = torch.zeros(2, 3, 128, 192), torch.tensor([[60, 160], [128, 192]])
    found = level_means([padded], covered(images, sizes))
    torch.testing.assert_close(found[:1], level_means([level[:1, :, :2, :5]]))
    torch.testing.assert_close(found[1:], level_means([level[1:]]))
    # 1 pixel of 2,016 still covers a place, and 33 of 64 cover two.
    level = torch.rand(1, 3, 63, 2)
    sides = torch.zeros(1, 3, 2016, 64)
    found = level_means([level], covered(sides, torch.tensor([[1, 33]])))
    torch.testing.assert_close(found, level_means([level[:, :, :1]]))

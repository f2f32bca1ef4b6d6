"""Images of the Grounding DINO family at a size of the user's, squares or not."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from system.config.schema import GrounderConfig, ImageSizeConfig
from system.data.shards.padding import padded_together
from system.errors import ConfigError
from system.grounders.dino.dino_grounder import GroundingDino
from system.grounders.dino.dino_images import pixel_mask
from system.grounders.entries import Entries
from system.grounders.grounder import GROUNDERS, GroundingBatch
from system.methods.base import GroundingSetting, build_task_method
from tests.grounders.small_grounding_dino import FAMILY, IMAGE_SIZE, write_small_grounding_dino

TEXTS = ["the red dog on the left", "a disk"]
SHORTEST = ImageSizeConfig("shortest", 48, 80)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_grounding_dino(tmp_path_factory.mktemp("dino"))


def load(path: Path, images: ImageSizeConfig = ImageSizeConfig()) -> GroundingDino:  # noqa: B008
    found = GROUNDERS.get("grounding_dino")(
        GrounderConfig("grounding_dino", str(path), images=images)
    )
    assert isinstance(found, GroundingDino)
    return found


def photographs() -> list[Image.Image]:
    rng = np.random.default_rng(3)
    sizes = ((60, 90), (120, 50))
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


def given(grounder: GroundingDino) -> GroundingBatch:
    transform = pickle.loads(pickle.dumps(grounder.image_transform()))
    pixels, sizes = padded_together([transform(image, None) for image in photographs()])
    return GroundingBatch(pixels, grounder.tokenize(TEXTS), sizes=sizes)


def test_images_of_unlike_sizes_give_the_librarys_boxes(checkpoint: Path) -> None:
    """The library's processor pads and masks: without the mask the padding would be searched."""
    grounder = load(checkpoint, SHORTEST)
    batch = given(grounder)
    assert batch.sizes is not None
    assert batch.sizes.tolist() == [[48, 72], [80, 33]]
    own = {"shortest_edge": 48, "longest_edge": 80}
    inputs = grounder.image_processor(images=photographs(), size=own, return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], batch.images)
    mask = pixel_mask(batch.images, batch.sizes)
    assert mask is not None
    assert torch.equal(inputs["pixel_mask"], mask)
    plain = FAMILY["grounding_dino"].from_pretrained(checkpoint).eval()
    with torch.no_grad():
        output = plain(input_ids=batch.tokens.ids, attention_mask=batch.tokens.mask, **inputs)
    scores = output.logits.sigmoid().amax(-1)
    for index, scored in enumerate(grounder.ground(batch, Entries())):
        order = scores[index].argsort(descending=True, stable=True)
        assert torch.equal(scored.scores, scores[index][order])
        middle = (scored.boxes[:, :2] + scored.boxes[:, 2:]) / 2
        inside = ((scored.boxes > 0) & (scored.boxes < 1)).all(dim=1)
        expected = output.pred_boxes[index][order][:, :2]
        torch.testing.assert_close(middle[inside], expected[inside])


def test_of_itself_a_checkpoint_is_given_squares_of_its_own_side(checkpoint: Path) -> None:
    """Adapters of before fit it still."""
    plain = load(checkpoint)
    pixels = [plain.image_transform()(image, None) for image in photographs()]
    assert [image.shape for image in pixels] == [(3, IMAGE_SIZE, IMAGE_SIZE)] * 2
    assert plain.shape.level_sides == (8, 4, 2)
    assert load(checkpoint, ImageSizeConfig("squeeze", IMAGE_SIZE)).fingerprint == plain.fingerprint


def test_an_adapter_fits_its_own_image_size(checkpoint: Path) -> None:
    """Prompts learned at one size would be applied at another, and nothing would fail."""
    chosen = [
        ImageSizeConfig(),
        ImageSizeConfig(side=32),
        SHORTEST,
        ImageSizeConfig("shortest", 48, 81),
        ImageSizeConfig("shortest", 49, 80),
    ]
    grounders = [load(checkpoint, images) for images in chosen]
    assert len({grounder.fingerprint for grounder in grounders}) == len(chosen)
    assert grounders[1].shape.level_sides == (4, 2, 1)
    assert grounders[1].shape.vision_sides == (8, 8, 4, 2)
    assert grounders[2].shape.level_sides == grounders[2].shape.vision_sides == ()


@pytest.mark.parametrize("images", [ImageSizeConfig(side=32), SHORTEST])
@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_a_line_of_pixels_goes_through(
    checkpoint: Path, images: ImageSizeConfig, size: tuple[int, int]
) -> None:
    """One such image among thousands would end a run in the middle of an epoch."""
    grounder = load(checkpoint, images)
    line = Image.new("RGB", size, (200, 30, 30))
    transform = grounder.image_transform()
    pixels, sizes = padded_together([transform(i, None) for i in (line, *photographs()[:1])])
    batch = GroundingBatch(pixels, grounder.tokenize(TEXTS), sizes=sizes)
    for scored in grounder.ground(batch, Entries()):
        assert torch.isfinite(scored.boxes).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (ImageSizeConfig(longest=90), "images.longest=90"),
        (ImageSizeConfig("shortest", 96, 90), "images.longest"),
    ],
)
def test_a_size_that_cannot_be_is_refused(
    checkpoint: Path, images: ImageSizeConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(checkpoint, images)


def test_a_method_with_weights_for_each_place_needs_squares(checkpoint: Path) -> None:
    shape = load(checkpoint, SHORTEST).shape
    with pytest.raises(ConfigError, match=r"grounder\.images\.rule=squeeze"):
        build_task_method(
            {"name": "clip_adapter", "variant": "diff_prompt"}, GroundingSetting(shape, seed=0)
        )

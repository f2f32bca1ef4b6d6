"""Pixels of the fast path are the checkpoint's own; of the one by vectors, how near they are."""

import pickle
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from system.backbones.clip import load_clip
from system.backbones.image_transform import ProcessorTransform
from system.backbones.uint8_transform import ProcessorSteps, Uint8Transform, resized
from system.config.schema import Augmentation, InputConfig
from tests.backbones.small_clip import write_small_clip

SIDE = 64
SQUARE = {"height": SIDE, "width": SIDE}
PROCESSORS: dict[str, Any] = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE),
    "clip larger": CLIPImageProcessorPil(size={"shortest_edge": 72}, crop_size=SQUARE),
    "siglip": SiglipImageProcessorPil(size=SQUARE),
}
FAST, VECTOR = InputConfig(pixels="fast"), InputConfig(pixels="vector")
MODES = ("RGB", "L", "1", "P", "RGBA", "CMYK")
CONTENTS = ("noise", "black and white", "smooth", "stripes", "dithered")


def picture(width: int, height: int, content: str, seed: int) -> Image.Image:
    """An RGB image: single pixels or stripes of the extremes are what a resize is hardest on."""
    rng = np.random.default_rng([seed])
    if content in ("smooth", "dithered"):
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height))
        return image if content == "smooth" else image.convert("1").convert("RGB")
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    if content == "black and white":
        pixels = np.where(pixels < 128, 0, 255).astype(np.uint8)
    elif content == "stripes":
        pixels[:] = (np.arange(width) % 2 * 255).astype(np.uint8)[None, :, None]
    return Image.fromarray(pixels)


def both(
    name: str,
    image: Image.Image,
    inputs: InputConfig = FAST,
    augmentation: Augmentation = "none",
    seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """An image's input by the processor, and by the fast path."""
    parts = (PROCESSORS[name], SIDE, inputs, augmentation)
    fast = Uint8Transform.of(*parts)
    assert fast is not None
    rngs = [None if seed is None else np.random.default_rng([seed]) for _ in range(2)]
    pixels = fast(image, rngs[1])
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, SIDE, SIDE)
    return ProcessorTransform(*parts)(image, rngs[0]), fast.normalise(pixels[None])[0]


#: A processor, and what `picture` is made from.
of_any_picture = given(
    st.sampled_from(sorted(PROCESSORS)),
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from(CONTENTS),
    st.integers(0, 2**16),
)


@settings(deadline=None, max_examples=150)
@of_any_picture
def test_every_pixel_is_the_processor_s_to_the_bit(
    name: str, width: int, height: int, content: str, seed: int
) -> None:
    """Other pixels than the checkpoint was trained on cost recall without an error."""
    expected, found = both(name, picture(width, height, content, seed))
    assert torch.equal(expected, found)


@pytest.mark.parametrize("name", sorted(PROCESSORS))
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_read_as_the_processor_reads_it(name: str, mode: str) -> None:
    assert torch.equal(*both(name, picture(150, 110, "smooth", 3).convert(mode)))


def levels_apart(name: str, image: Image.Image) -> Tensor:
    """How many of 255 levels the path by vectors is away from the processor, of each byte."""
    one, other = both(name, image, VECTOR)
    std = torch.tensor(PROCESSORS[name].image_std)[:, None, None]
    return ((one - other).abs() * std * 255).round()


@settings(deadline=None, max_examples=150)
@of_any_picture
def test_resizing_by_vectors_is_within_two_levels_of_the_processor(
    name: str, width: int, height: int, content: str, seed: int
) -> None:
    """Whichever side is longer, and whether it shrinks: Pillow changes its order for some."""
    assert levels_apart(name, picture(width, height, content, seed)).max() <= 2


def test_resizing_by_vectors_changes_few_bytes() -> None:
    """The share that InputConfig states; a path that changed nothing would not be another one."""
    found = [
        levels_apart(name, picture(200 + 13 * i, 150 + 11 * i, content, i))
        for name in ("clip", "siglip")
        for content in CONTENTS
        for i in range(5)
    ]
    apart = torch.stack(found)
    assert 0.0002 < (apart > 0).float().mean() < 0.02
    assert (apart > 1).float().mean() < 0.0001


@pytest.mark.parametrize("name", sorted(PROCESSORS))
def test_random_crops_and_another_mean_are_the_processor_s_to_the_bit(name: str) -> None:
    image = picture(150, 110, "noise", 5)
    released = replace(FAST, normalisation="imagenet", evaluation_augmentation="crop_flip")
    for seed in (None, 7):
        assert torch.equal(*both(name, image, released, "crop_flip", seed))


def test_a_squeezed_image_keeps_its_edges() -> None:
    image = picture(200, 100, "smooth", 2)
    squeezed = replace(FAST, resize="squeeze")
    assert torch.equal(*both("clip", image, squeezed))
    assert not torch.equal(both("clip", image, squeezed)[1], both("clip", image)[1])


def test_normalising_is_the_processor_s_for_each_level() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 4, 64).expand(1, 3, 4, 64)
    image = np.zeros((64, 64, 3), np.uint8)
    image[:4] = levels[0].permute(1, 2, 0).numpy()
    for name in PROCESSORS:
        fast = Uint8Transform.of(PROCESSORS[name], SIDE, FAST, "none")
        assert fast is not None
        exact = ProcessorTransform(PROCESSORS[name], SIDE, FAST, "none")
        expected = exact(Image.fromarray(image), None)
        if name != "clip larger":
            assert torch.equal(expected[:, :4], fast.normalise(levels)[0])
        assert fast.normalise(levels).is_contiguous()


@pytest.mark.parametrize(
    "edit",
    [
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_convert_rgb": False},
        {"do_center_crop": False},
        {"do_pad": True},
        {"rescale_factor": 1 / 127.5},
        {"resample": Image.Resampling.BILINEAR},
        {"crop_size": {"height": SIDE + 2, "width": SIDE}},
        {"size": {"shortest_edge": SIDE - 2}},
        {"size": {"shortest_edge": SIDE, "longest_edge": 2 * SIDE}},
        {"size": {"height": SIDE, "width": SIDE + 2}},
        {"image_mean": [0.5]},
    ],
)
def test_a_processor_of_other_steps_is_left_to_itself(edit: dict[str, Any]) -> None:
    """A guess at what an unknown option does would be wrong for every image, silently."""
    settings = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE}
    assert ProcessorSteps.of(CLIPImageProcessorPil(**settings), SIDE) is not None
    assert ProcessorSteps.of(CLIPImageProcessorPil(**settings | edit), SIDE) is None


def test_a_subclass_of_a_processor_is_left_to_itself() -> None:
    class Another(CLIPImageProcessorPil):  # type: ignore[misc]
        pass

    assert ProcessorSteps.of(Another(size={"shortest_edge": SIDE}, crop_size=SQUARE), SIDE) is None


def test_jpeg_s_draft_mode_is_off_by_more_than_a_level() -> None:
    """Why it is no part of the fast path, even at twice the size that is needed."""
    stream = BytesIO()
    coarse = np.random.default_rng([1]).integers(0, 256, (240, 320, 3), np.uint8)
    Image.fromarray(coarse).resize((640, 480)).save(stream, "JPEG", quality=90)
    whole, drafted = (Image.open(BytesIO(stream.getvalue())) for _ in range(2))
    drafted.draft("RGB", (320, 240))
    drafted.load()
    assert drafted.size == (320, 240)
    levels = [resized(image.convert("RGB"), 160, 120).int() for image in (whole, drafted)]
    assert (levels[0] - levels[1]).abs().max() > 8


def test_only_pixels_that_never_change_have_a_key_for_the_cache() -> None:
    """A cached crop in the place of a random one would be the same crop in every epoch."""

    def key(
        name: str = "clip",
        inputs: InputConfig = FAST,
        augmentation: Augmentation = "none",
    ) -> str | None:
        fast = Uint8Transform.of(PROCESSORS[name], SIDE, inputs, augmentation)
        assert fast is not None
        return fast.cache_key

    assert key(augmentation="crop_flip") is None
    assert key(inputs=replace(FAST, evaluation_augmentation="crop_flip")) is None
    assert key(inputs=replace(FAST, normalisation="imagenet")) == key()  # bytes are not normalised
    assert len({key(), key("clip larger"), key("siglip"), key(inputs=VECTOR)}) == 4
    assert key(inputs=replace(FAST, resize="squeeze")) == key("siglip")


def test_the_transform_travels_to_a_worker_and_is_named_in_results() -> None:
    fast = Uint8Transform.of(PROCESSORS["clip"], SIDE, VECTOR, "none")
    copy = pickle.loads(pickle.dumps(fast))
    image = picture(90, 80, "noise", 1)
    assert fast is not None
    assert torch.equal(copy(image, None), fast(image, None))
    assert str(fast) == "the checkpoint's own image processor, resized by vector instructions"


def test_the_setting_chooses_the_path_and_an_unknown_processor_keeps_its_own(
    tmp_path: Path,
) -> None:
    backbone = load_clip(str(write_small_clip(tmp_path, ["a"])))
    assert isinstance(backbone.image_transform(), ProcessorTransform)
    assert isinstance(backbone.image_transform(FAST), Uint8Transform)
    assert isinstance(backbone.image_transform(VECTOR), Uint8Transform)
    backbone.image_processor.resample = Image.Resampling.LANCZOS
    assert isinstance(backbone.image_transform(FAST), ProcessorTransform)

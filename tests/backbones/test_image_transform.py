"""Images reach the backbone as its checkpoint asks; randomness comes from seeds only."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from system.backbones.image_transform import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ProcessorTransform,
    random_resized_crop,
)
from system.config.schema import Augmentation, InputConfig
from tests.backbones.small_clip import IMAGE_SIZE, MEAN, STD


def photo(seed: int = 0, size: tuple[int, int] = (50, 40)) -> Image.Image:
    width, height = size
    values = np.random.default_rng([seed]).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def processor() -> Any:
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=MEAN,
        image_std=STD,
    )


#: What LPI's released code does with images.
RELEASED = InputConfig(normalisation="imagenet", evaluation_augmentation="crop_flip")


def transform(
    processor: Any,
    inputs: InputConfig = InputConfig(),  # noqa: B008 - frozen
    augmentation: Augmentation = "none",
) -> ProcessorTransform:
    return ProcessorTransform(processor, IMAGE_SIZE, inputs, augmentation)


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
@pytest.mark.parametrize("size", [(50, 40), (20, 90), (32, 32)])
def test_evaluation_equals_the_checkpoint_s_processor(
    processor: Any, augmentation: Augmentation, size: tuple[int, int]
) -> None:
    """Other pixels than the backbone was trained on cost recall without an error."""
    image = photo(size=size)
    expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
    found = transform(processor, augmentation=augmentation)(image, None)
    assert torch.equal(found, expected)
    assert found.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
    assert found.dtype == torch.float32


def test_without_augmentation_training_sees_what_evaluation_sees(processor: Any) -> None:
    image, plain = photo(), transform(processor)
    assert torch.equal(plain(image, np.random.default_rng(1)), plain(image, None))


def test_augmentation_follows_its_seed(processor: Any) -> None:
    """The same seed must train on the same crops, whatever ran before."""
    augment, image = transform(processor, augmentation="crop_flip"), photo()
    first = augment(image, np.random.default_rng([7, 1]))
    np.random.default_rng([0]).random()
    assert torch.equal(augment(image, np.random.default_rng([7, 1])), first)
    assert not torch.equal(augment(image, np.random.default_rng([7, 2])), first)
    assert first.shape == (3, IMAGE_SIZE, IMAGE_SIZE)


def test_released_crops_belong_to_the_image(processor: Any) -> None:
    """The released code's metrics change with the order of images; ours repeat its crops only."""
    cropping = transform(processor, RELEASED)
    images = [photo(seed) for seed in range(4)]
    forward = [cropping(image, None) for image in images]
    backward = [cropping(image, None) for image in reversed(images)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert torch.equal(a, b)
    centred = transform(processor)(images[0], None)
    assert not torch.allclose(forward[0], centred)


def test_released_normalises_with_imagenet_s_mean(processor: Any) -> None:
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    found = transform(processor, RELEASED)(grey, None)
    expected = (128 / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    assert torch.allclose(found, expected[:, None, None].expand_as(found), atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**16))
def test_a_crop_of_any_image_has_the_asked_size(
    width: int, height: int, size: int, seed: int
) -> None:
    """A thin or tiny image must not end a training of hours."""
    image = Image.new("RGB", (width, height), (9, 8, 7))
    crop = random_resized_crop(image, size, np.random.default_rng([seed]))
    assert crop.size == (size, size)
    assert crop.getcolors() == [(size * size, (9, 8, 7))]  # nothing from outside the image


def test_half_of_the_crops_are_mirrored() -> None:
    image = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).convert("RGB")
    rng = np.random.default_rng([0])
    mirrored = 0
    for _ in range(200):
        row = np.asarray(random_resized_crop(image, 16, rng))[0, :, 0]
        mirrored += int(row[0]) > int(row[-1])
    assert 70 < mirrored < 130


def test_squeezing_keeps_what_a_centre_crop_cuts_off(processor: Any) -> None:
    """An object at the edge of a wide image must be seen where its mask is."""
    image = Image.new("RGB", (4 * IMAGE_SIZE, IMAGE_SIZE), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, IMAGE_SIZE, IMAGE_SIZE))  # the leftmost quarter
    cropped = transform(processor)(image, None)
    squeezed = transform(processor, InputConfig(resize="squeeze"))(image, None)
    assert cropped.shape == squeezed.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
    quarter = IMAGE_SIZE // 4
    for channel in range(3):
        assert cropped[channel].max() == cropped[channel].min()
        left, rest = squeezed[channel, :, : quarter - 2], squeezed[channel, :, quarter + 2 :]
        assert left.min() > rest.max()


def test_a_transform_travels_to_a_worker(processor: Any) -> None:
    original = transform(processor, RELEASED)
    copy = pickle.loads(pickle.dumps(original))
    assert torch.equal(copy(photo(), None), original(photo(), None))


def test_results_say_which_transform_was_used(processor: Any) -> None:
    assert "ImageNet" in str(transform(processor, RELEASED))
    assert "checkpoint's own" in str(transform(processor, augmentation="crop_flip"))

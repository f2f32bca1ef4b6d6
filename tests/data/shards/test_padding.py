"""Images of unlike sizes in one tensor."""

import torch

from system.data.shards.padding import padded_together


def test_images_stand_at_the_top_left_of_a_tensor_of_multiples() -> None:
    """Boxes are counted from the top left: an image that moves is found at another place."""
    images = [torch.rand(3, 45, 70), torch.rand(3, 33, 96), torch.rand(3, 45, 70)]
    pixels, sizes = padded_together(images, 32)
    assert pixels.shape == (3, 3, 64, 96)
    assert sizes is not None
    assert sizes.tolist() == [[45, 70], [33, 96], [45, 70]]
    for image, padded in zip(images, pixels, strict=True):
        height, width = image.shape[1:]
        assert torch.equal(padded[:, :height, :width], image)
        assert not padded[:, height:].any()
        assert not padded[:, :, width:].any()


def test_one_size_below_a_multiple_is_padded_too() -> None:
    """GLIP's pyramid was trained on sides of multiples of 32, of a single image as well."""
    pixels, sizes = padded_together([torch.ones(3, 40, 64)], 32)
    assert pixels.shape == (1, 3, 64, 64)
    assert sizes is not None
    assert sizes.tolist() == [[40, 64]]


def test_squares_are_stacked_as_they_are() -> None:
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 64)]
    for multiple in (1, 32):
        pixels, sizes = padded_together(images, multiple)
        assert torch.equal(pixels, torch.stack(images))
        assert sizes is None

"""Sizes of a GLIP that contradict each other are refused."""

import pytest

from system.grounders.glip.glip_config import GlipConfig, HeadSizes, VisionSizes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"context_length": 999}, "context_length=999 is above"),
        ({"head": HeadSizes(stages=(3, 2))}, r"stages=\[3, 2\] must rise from 1"),
        ({"head": HeadSizes(stages=(2, 3))}, "to 4, the last"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GlipConfig(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is 97 wide: no multiple"):
        VisionSizes(embed_dim=97)
    with pytest.raises(ValueError, match="channels=24 is no multiple of norm_groups=16"):
        HeadSizes(channels=24)


def test_published_strides() -> None:
    assert GlipConfig().strides == (8, 16, 32, 64, 128)
    assert GlipConfig().vision.block_widths == (96, 96, 192, 192, *[384] * 6, 768, 768)

"""The sizes of a GLIP are read from its published weights, and other models are refused."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from system.errors import ConfigError
from system.grounders.glip.glip_config import GlipConfig, HeadSizes, VisionSizes
from system.grounders.glip.published_sizes import PublishedOptions, published_sizes
from tests.grounders.published_glip import full_keys, small_keys

TOWER = "rpn.head.dyhead_tower"


def _shapes(keys: dict[str, dict[str, list[int]]]) -> dict[str, Tensor]:
    return {name: torch.empty(entry["shape"], device="meta") for name, entry in keys.items()}


def _named(names: Iterable[str]) -> dict[str, Tensor]:
    return {name: torch.zeros(2, 2) for name in names}


def test_the_sizes_of_glip_t_a_are_the_defaults() -> None:
    assert published_sizes(_shapes(full_keys()), PublishedOptions(), "it") == GlipConfig()


def test_other_sizes_are_read_too() -> None:
    """Someone's own GLIP: narrower towers, two blocks, and what no shape tells."""
    options = PublishedOptions(text_heads=4, norm_groups=8, upsampling="nearest")
    config = published_sizes(_shapes(small_keys()), options, "it")
    assert config.vision == VisionSizes(24, (2, 2, 2, 2), (2, 2, 4, 8), window_size=7)
    assert config.head == HeadSizes(channels=32, blocks=2, norm_groups=8, upsampling="nearest")
    text = config.text
    assert (text.vocab_size, text.hidden_size, text.intermediate_size) == (48, 48, 96)
    assert (text.num_hidden_layers, text.num_attention_heads) == (3, 4)


def test_a_window_of_a_larger_swin_is_read() -> None:
    state = _shapes(full_keys())
    for name, value in state.items():
        if name.endswith("relative_position_bias_table"):
            state[name] = value.new_empty(23 * 23, value.shape[1])
    assert published_sizes(state, PublishedOptions(), "it").vision.window_size == 12


@pytest.mark.parametrize(
    "name",
    [
        f"{TOWER}.0.b_attn.attn.v_proj.weight",
        f"{TOWER}.3.t2i_attn.attn.q_proj.weight",
        f"{TOWER}.1.attention.self.query.weight",
    ],
)
def test_deep_fusion_is_recognised_and_says_which_models_fit(name: str) -> None:
    """Loaded without its fusion, GLIP-T would find other boxes than its authors' code."""
    state = _shapes(full_keys()) | _named([name])
    with pytest.raises(ConfigError, match=r"^it is a GLIP with deep fusion.*glip_a_tiny_o365\.pth"):
        published_sizes(state, PublishedOptions(), "it")


@pytest.mark.parametrize(
    "names",
    [
        ["visual_projection.weight", "text_model.embeddings.token_embedding.weight"],
        ["transformer.level_embed", "backbone.0.patch_embed.proj.weight", "bert.pooler.dense.bias"],
        [],
    ],
)
def test_another_model_is_named_by_what_it_holds(names: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        published_sizes(_named(names), PublishedOptions(), "it")
    message = str(error.value)
    assert "it is no GLIP in the released naming; missing: backbone.body.patch_embed" in message
    assert (names[0] if names else "it holds nothing") in message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (PublishedOptions(), "BERT is 48 wide.*import it with text_heads=NUMBER"),
        (PublishedOptions(text_heads=5), r"hidden_size=48 is no multiple of num_attention_heads=5"),
        (
            PublishedOptions(text_heads=4, norm_groups=5),
            "channels=32 is no multiple of norm_groups",
        ),
    ],
)
def test_what_no_shape_tells_has_to_fit(options: PublishedOptions, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        published_sizes(_shapes(small_keys()), options, "it")

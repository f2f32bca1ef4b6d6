"""The names of GLIP's published weights, and ours."""

from system.grounders.glip.glip_config import GlipConfig
from system.grounders.glip.glip_files import unfilled_network
from system.grounders.glip.published_names import CELL_ANCHORS, INDEX, UNUSED, published_shapes
from tests.grounders.published_glip import full_keys


def test_the_network_takes_each_tensor_of_glip_t_a_once() -> None:
    """One that no layer takes would leave that layer as a training starts, without a warning."""
    config = GlipConfig()
    own = {name: value.shape for name, value in unfilled_network(config).state_dict().items()}
    published = {
        name: tuple(entry["shape"])
        for name, entry in full_keys().items()
        if not (UNUSED.fullmatch(name) or name.endswith(INDEX) or name.startswith(CELL_ANCHORS))
    }
    assert published_shapes(own, config.head.stages) == published

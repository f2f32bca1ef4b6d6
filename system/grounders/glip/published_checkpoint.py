"""A GLIP from a file of published weights, as the released code saves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from system.errors import ConfigError
from system.grounders.glip.box_coder import pyramid_anchors
from system.grounders.glip.glip_files import (
    GlipParts,
    fill,
    glip_files,
    read_tokenizer,
    unfilled_network,
)
from system.grounders.glip.glip_network import GlipNetwork
from system.grounders.glip.published_names import (
    CELL_ANCHORS,
    INDEX,
    UNUSED,
    own_tensors,
    published_shapes,
)
from system.grounders.glip.published_sizes import PublishedOptions, published_sizes
from system.storage.published_weights import (
    fetched,
    read_weights,
    require_same_names,
    weight_file,
)

if TYPE_CHECKING:  # where grounders are used, there need be no pyarrow
    from system.storage.files import Folder


def load_published(file: Path, options: PublishedOptions, where: str) -> GlipParts:
    """The GLIP of a checkpoint of the released code: a dict of weights, alone or under `model`.

    What else the dict holds is not used. The weights stay mapped from the file, which must not be
    overwritten as long as the network is on the CPU.
    Raises StorageError for a damaged file or one that holds code, and ConfigError for a tokenizer
    that is not BERT's, another model, and tensors that are missing, left over, of another shape,
    or constants of other values.
    """
    state = read_weights(file)
    config = published_sizes(state, options, where)
    tokenizer = read_tokenizer(options.tokenizer, config, where)
    _require_uncased_bert(tokenizer, options.tokenizer, config.text.pad_token_id, where)
    network = unfilled_network(config)
    stages = config.head.stages
    own = {name: value.shape for name, value in network.state_dict().items()}
    weights = _without_constants(state, network, where)
    require_same_names(weights, published_shapes(own, stages), where)
    fill(network, own_tensors(own, weights, stages))
    return GlipParts(network, tokenizer)


def import_glip(source: str, folder: Folder, options: PublishedOptions) -> str:
    """Write the GLIP of a hub id, folder or file into a folder; what it is, in words.

    A folder with a config.json is complete. Raises as `load_published` does.
    """
    file = weight_file(fetched(source))
    parts = load_published(file, options, str(file))
    for name, content in glip_files(parts.network, parts.tokenizer):
        folder.write(name, content)
    config, parameters = parts.network.config, parts.network.parameters()
    return (
        f"GLIP: Swin of {config.vision.embed_dim} channels and {sum(config.vision.depths)} blocks, "
        f"BERT of {config.text.num_hidden_layers} layers, a head of {config.head.blocks} blocks, "
        f"{sum(value.numel() for value in parameters):,} parameters"
    )


def _without_constants(
    state: Mapping[str, Tensor], network: GlipNetwork, where: str
) -> dict[str, Tensor]:
    """The weights without what a network has no use for.

    Raises ConfigError naming a constant that has another value than the network's own.
    """
    config = network.config
    attention: Any = network.vision_layers[0].attention
    index = attention.relative_position_bias.relative_position_index.flatten()
    constants = {
        f"{CELL_ANCHORS}{level}": pyramid_anchors(
            [(1, 1)], [stride], config.head.anchor_scale, index.device
        ).boxes
        for level, stride in enumerate(config.strides)
    }
    weights = {}
    for name, value in state.items():
        own = index if name.endswith(f".{INDEX}") else constants.get(name)
        if own is None:
            if not UNUSED.fullmatch(name):
                weights[name] = value
        elif value.shape.numel() != own.numel() or not torch.equal(
            value.reshape(own.shape).to(own.dtype), own
        ):
            raise ConfigError(
                f"{where}: {name} has other values than those that promptide computes with; "
                "anchors are one square of 8 strides per place, windows are square"
            )
    return weights


def _require_uncased_bert(tokenizer: Any, source: str, padding: int, where: str) -> None:
    """Raises ConfigError naming what of a tokenizer is not as GLIP was trained with."""
    plain, capital = (tokenizer(text)["input_ids"] for text in ("a", "A"))
    ends = [plain[0], plain[-1]] == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    wrong = [
        what
        for what, right in (
            ("it keeps capitals", plain == capital),
            ("it puts no [CLS] and [SEP] around a text", ends),
            (f"its padding is not token {padding}", tokenizer.pad_token_id == padding),
        )
        if not right
    ]
    if wrong:
        raise ConfigError(
            f"{where}: {source} is no tokenizer of an uncased BERT: {'; '.join(wrong)}"
        )

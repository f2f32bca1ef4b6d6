"""CLIP from `transformers`, frozen, with entries for prompts in both towers.

Radford et al. 2021, "Learning transferable visual models from natural language supervision".
"""

from typing import Any

from typing_extensions import override

from system.backbones.checkpoint import CheckpointKind, load_parts
from system.backbones.computation import Computation
from system.backbones.tower_pair import TowerPair
from system.errors import ConfigError

LEGACY_END = 2  # eos_token_id of configs that pool at the largest id


class ClipBackbone(TowerPair):
    """A `transformers.CLIPModel` as a frozen dual encoder.

    A visual prompt stands behind the class token, a textual one behind the begin token.
    """

    first_prompted = 1
    reads_end = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        image_processor: Any = None,
        name: str = "clip",
        computation: Computation = Computation(),  # noqa: B008 - frozen
    ) -> None:
        width = model.config.projection_dim
        super().__init__(model, tokenizer, image_processor, name, computation, width)

    @override
    def _ahead(self, placeholders: int) -> list[int]:
        # The begin token stands in for the prompt: unlike the end or padding token it can't be
        # taken for the end of the text, whose feature is read.
        begin: int = self.tokenizer.bos_token_id
        return [begin] * (1 + placeholders)


def load_clip(path: str, computation: Computation = Computation()) -> ClipBackbone:  # noqa: B008
    """CLIP, its tokenizer and its image processor from a hub id or a local directory.

    Raises ConfigError naming `backbone.path` and the part that can't be loaded, is not a CLIP's,
    or does not fit the others.
    """
    from transformers import AutoTokenizer, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    kind = CheckpointKind(
        title="CLIP",
        model_type="clip",
        model=CLIPModel.from_pretrained,
        tokenizer=AutoTokenizer.from_pretrained,
        image_processor=CLIPImageProcessorPil.from_pretrained,
        tokenizer_files=("tokenizer.json", "vocab.json"),
    )
    parts = load_parts(path, kind)
    _check_begin_and_end(parts.path, parts.model.config.text_config, parts.tokenizer)
    return ClipBackbone(
        parts.model, parts.tokenizer, parts.image_processor, parts.path, computation
    )


def _check_begin_and_end(path: str, text: Any, tokenizer: Any) -> None:
    # The text feature is read at the end token: at its id, or, in a config of before
    # transformers 4.31 (2 there, whatever the tokenizer), at the largest id.
    legacy = text.eos_token_id == LEGACY_END
    expected = len(tokenizer) - 1 if legacy else text.eos_token_id
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id != expected:
        raise ConfigError(
            f"backbone.path={path!r}: the tokenizer begins a text with token "
            f"{tokenizer.bos_token_id} and ends it with {tokenizer.eos_token_id}, but the model "
            f"reads its text feature at token {expected}; they do not belong together"
        )


BACKBONE = load_clip

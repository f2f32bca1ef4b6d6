"""SigLIP and SigLIP 2 from `transformers`, frozen, with entries for prompts in both towers.

Zhai et al. 2023, "Sigmoid loss for language image pre-training"; Tschannen et al. 2025, "SigLIP 2".
"""

from typing import Any

from typing_extensions import override

from system.backbones.checkpoint import CheckpointKind, load_parts
from system.backbones.computation import Computation
from system.backbones.tower_pair import TowerPair
from system.errors import ConfigError

NAFLEX = (
    "a NaFlex checkpoint takes sequences of patches, which prompts do not enter here: take one of "
    "a fixed resolution, such as google/siglip2-base-patch16-224"
)


class SiglipBackbone(TowerPair):
    """A `transformers.SiglipModel` as a frozen dual encoder.

    There is no class token and no begin token: prompts are the first tokens of both towers, and the
    attention-pooling head sees those of the vision tower. The text feature is read at the last
    position of the padded context. SigLIP was trained with a sigmoid loss on scaled and shifted
    cosines; the contrastive loss here is a softmax over them, in which the shift (`logit_bias`)
    cancels out, so only `logit_scale` is used.
    """

    first_prompted = 0
    reads_end = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        image_processor: Any = None,
        name: str = "siglip",
        computation: Computation = Computation(),  # noqa: B008 - frozen
    ) -> None:
        width = model.config.text_config.projection_size
        super().__init__(model, tokenizer, image_processor, name, computation, width)

    @override
    def _ahead(self, placeholders: int) -> list[int]:
        # Their embeddings are replaced. The unknown token marks their place, as the padding is the
        # end token in the first SigLIP.
        unknown: int | None = self.tokenizer.unk_token_id
        return [self._padding() if unknown is None else unknown] * placeholders

    @override
    def _words(self, texts: list[str]) -> list[list[int]]:
        # Both were trained on lower case, but the fixed-resolution SigLIP 2 checkpoints name
        # Gemma's tokenizer, which keeps capitals.
        if self.tokenizer.init_kwargs.get("do_lower_case", True):
            texts = [text.lower() for text in texts]
        return super()._words(texts)


def load_siglip(path: str, computation: Computation = Computation()) -> SiglipBackbone:  # noqa: B008
    """SigLIP, its tokenizer and its image processor from a hub id or a local directory.

    Raises ConfigError naming `backbone.path` and the part that can't be loaded, is not a SigLIP's,
    or does not fit the others; and for SigLIP 2's NaFlex checkpoints.
    """
    from transformers import SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    kind = CheckpointKind(
        title="SigLIP",
        model_type="siglip",
        model=SiglipModel.from_pretrained,
        tokenizer=_load_tokenizer,
        image_processor=SiglipImageProcessorPil.from_pretrained,
        tokenizer_files=("tokenizer.json", "spiece.model"),
        advice={"siglip2": NAFLEX},
    )
    parts = load_parts(path, kind)
    _check_features(parts.path, parts.model.config)
    return SiglipBackbone(
        parts.model, parts.tokenizer, parts.image_processor, parts.path, computation
    )


def _load_tokenizer(path: str, **options: Any) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # Which revision a hub id has is not pinned: the run's header holds a fingerprint of what came.
    try:  # tokenizer.json: read in the same way on every machine, needing nothing more
        return PreTrainedTokenizerFast.from_pretrained(path, **options)  # nosec B615
    except (OSError, ValueError):  # spiece.model alone: needs sentencepiece and protobuf
        return AutoTokenizer.from_pretrained(path, **options)  # nosec B615


def _check_features(path: str, config: Any) -> None:
    vision, text = config.vision_config, config.text_config
    if not vision.vision_use_head or vision.hidden_size != text.projection_size:
        raise ConfigError(
            f"backbone.path={path!r}: the towers give no features of one width (vision: "
            f"{vision.hidden_size}, pooled: {vision.vision_use_head}; text: "
            f"{text.projection_size}); take a whole SigLIP"
        )


BACKBONE = load_siglip

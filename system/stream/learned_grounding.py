"""What a stream of grounding tasks has learned so far on a frozen grounder."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from system.backbones.dual_encoder import Modality
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.grounders.grounder import Grounder
from system.methods.grounding_method import GroundingSetting
from system.methods.grounding_stream import GroundingStream, build_grounding_stream
from system.storage.adapters import AdapterFolder, AdapterHeader, require_same_backbone
from system.storage.files import Folder
from system.stream.given_similarity import GivenSimilarity
from system.stream.learned_state import LearnedState


class LearnedGrounding(LearnedState[Grounder, GroundingStream]):
    """See `LearnedState`; an expression goes where its image is routed to."""

    routed: tuple[Modality, ...] = ("vision",)

    def __init__(
        self,
        header: AdapterHeader,
        backbone: Grounder,
        given: GivenSimilarity | None = None,
        masks: MaskDecoder | None = None,
    ) -> None:
        """`masks` are for a method whose prompts come from latents."""
        setting = GroundingSetting(backbone.shape, header.seed, masks)
        super().__init__(header, backbone, build_grounding_stream(header.method, setting), given)

    def name_features(self, names: Sequence[str]) -> Tensor:
        """See `LearnedState.name_features`."""
        return self.backbone.name_features(names)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, backbone: Grounder, masks: MaskDecoder | None = None
    ) -> "LearnedGrounding":
        """Load adapters for the grounder they were learned on; raises what the retrieval's does."""
        adapters = AdapterFolder(Folder.of(directory))
        header = adapters.header()
        require_same_backbone(header, backbone.name, backbone.fingerprint)
        learned = cls(header, backbone, masks=masks)
        learned.load(adapters, adapters.count())
        return learned

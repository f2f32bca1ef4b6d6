"""What a stream of retrieval tasks has learned so far on a dual encoder."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from system.backbones.dual_encoder import DualEncoder
from system.methods.method import Method, build_method
from system.storage.adapters import AdapterFolder, AdapterHeader, require_same_backbone
from system.storage.files import Folder
from system.stream.given_similarity import GivenSimilarity
from system.stream.learned_state import LearnedState


class LearnedStream(LearnedState[DualEncoder, Method]):
    """See `LearnedState`; images and texts are routed each by itself."""

    def __init__(
        self,
        header: AdapterHeader,
        backbone: DualEncoder,
        given: GivenSimilarity | None = None,
    ) -> None:
        method = build_method(header.method, backbone.shape, header.seed, header.protocol)
        super().__init__(header, backbone, method, given)

    def name_features(self, names: Sequence[str]) -> Tensor:
        """See `LearnedState.name_features`."""
        return self.backbone.name_features(names)

    @classmethod
    def from_pretrained(cls, directory: str | Path, backbone: DualEncoder) -> "LearnedStream":
        """Load adapters for the backbone they were learned on.

        Raises StorageError when the directory holds none or a file is damaged,
        AdapterMismatchError for another backbone or tensors that do not fit.
        """
        adapters = AdapterFolder(Folder.of(directory))
        header = adapters.header()
        require_same_backbone(header, backbone.name, backbone.fingerprint)
        learned = cls(header, backbone)
        learned.load(adapters, adapters.count())
        return learned

"""What a real run does, counted where it happens: samples through towers, grounder and stages."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from system.backbones.tower_pair import TowerPair
from system.diff_prompt.prompt_generator.mask_dit import MaskDiT
from system.engine.encoding import Encoder
from system.grounders.grounder import Grounder
from system.objectives.grounding.grounder_features import GrounderFeatures
from system.objectives.grounding.rec_scoring import RecScorer
from system.planning.stream_work import DENOISER, IMAGE, PAIR, TEXT

Counts = Counter[tuple[str, str]]  # (part, mode) -> samples
TOWERS = {"vision": IMAGE, "text": TEXT}


def count_retrieval(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Samples asked of the encoder, and those that pass a tower with gradients."""
    counts: Counts = Counter()
    images, texts, forward = Encoder.images, Encoder.texts, TowerPair.forward

    def mode(prompted: object) -> str:
        return "plain" if prompted is None else "prompted"

    def counted_images(self: Encoder, handle: Any, rows: Any, transform: Any, prompted: Any) -> Any:
        counts[IMAGE, mode(prompted)] += len(rows)
        return images(self, handle, rows, transform, prompted)

    def counted_texts(self: Encoder, captions: Any, prompted: Any, *rest: Any) -> Any:
        counts[TEXT, mode(prompted)] += len(captions)
        return texts(self, captions, prompted, *rest)

    def counted_forward(self: TowerPair, modality: Any, inputs: Tensor, *rest: Any) -> Any:
        if torch.is_grad_enabled():
            counts[TOWERS[modality], "training"] += len(inputs)
        return forward(self, modality, inputs, *rest)

    monkeypatch.setattr(Encoder, "images", counted_images)
    monkeypatch.setattr(Encoder, "texts", counted_texts)
    monkeypatch.setattr(TowerPair, "forward", counted_forward)
    return counts


def count_grounding(monkeypatch: pytest.MonkeyPatch, grounder: type[Grounder]) -> Counts:
    """Expressions that are learned and judged, and what only tells tasks apart."""
    counts: Counts = Counter()
    losses, score = grounder.losses, RecScorer.score
    images, texts = GrounderFeatures._images, GrounderFeatures._texts

    def counted_losses(self: Any, batch: Any, *rest: Any, **named: Any) -> Any:
        counts[PAIR, "training"] += len(batch.tokens.ids)
        return losses(self, batch, *rest, **named)

    def counted_score(self: Any, chosen: Any, show: Any, **rest: Any) -> Any:
        blocks: Sequence[range] | None = rest.get("blocks")
        mode = "plain" if rest.get("entries") is None else "prompted"
        counts[PAIR, mode] += len(chosen) if blocks is None else sum(map(len, blocks))
        return score(self, chosen, show, **rest)

    def counted_images(self: Any, handle: Any) -> Any:
        counts[IMAGE, "plain"] += handle.rows
        return images(self, handle)

    def counted_texts(self: Any, asked: Any) -> Any:
        counts[TEXT, "plain"] += len(asked)
        return texts(self, asked)

    monkeypatch.setattr(grounder, "losses", counted_losses)
    monkeypatch.setattr(RecScorer, "score", counted_score)
    monkeypatch.setattr(GrounderFeatures, "_images", counted_images)
    monkeypatch.setattr(GrounderFeatures, "_texts", counted_texts)
    return counts


def count_generator(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Samples through the transformer, and images and texts through the encoder beside it."""
    counts = count_retrieval(monkeypatch)
    forward = MaskDiT.forward

    def counted(self: Any, latent: Tensor, *rest: Any) -> Any:
        counts[DENOISER, "training" if torch.is_grad_enabled() else "plain"] += len(latent)
        return forward(self, latent, *rest)

    monkeypatch.setattr(MaskDiT, "forward", counted)
    return counts

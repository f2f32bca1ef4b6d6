"""From dense scored boxes to the few that are reported: non-maximum suppression.

Legend: B batch, A anchors, K candidates.
"""

import torch
from torch import Tensor

from system.results.rec import box_overlap


def suppress(boxes: Tensor, overlap: float) -> Tensor:
    """Which of boxes (B, K, 4), best first, greedy suppression keeps: (B, K).

    A box goes if a better one that stays overlaps it by more than `overlap`. The rule is put to
    all boxes at once until nothing changes: the result is the greedy one, since the first box is
    right from the start and each round settles at least the next.
    """
    later = torch.ones(boxes.shape[1], boxes.shape[1], dtype=torch.bool, device=boxes.device)
    hides = (box_overlap(boxes[:, :, None], boxes[:, None], "iou") > overlap) & later.triu(1)
    kept = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    while True:
        settled = ~(hides & kept[:, :, None]).any(dim=1)
        if torch.equal(settled, kept):
            return kept
        kept = settled


def best_boxes(
    boxes: Tensor, scores: Tensor, candidates: int, overlap: float, most: int
) -> list[tuple[Tensor, Tensor]]:
    """Each sample's boxes (k, 4) and scores (k,), best first, from (B, A, 4) and (B, A).

    Of the `candidates` best boxes those that suppression keeps, at most `most`. Boxes without area
    are none.
    """
    area = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(dim=-1)
    scores = scores.masked_fill(area <= 0, -1.0)
    # Stable: of equal scores the earlier anchor is the better one, on every device.
    ranked, order = scores.sort(dim=1, descending=True, stable=True)
    ranked, order = ranked[:, :candidates], order[:, :candidates]
    chosen = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    kept = suppress(chosen, overlap) & (ranked >= 0)
    return [
        (chosen[sample][kept[sample]][:most], ranked[sample][kept[sample]][:most])
        for sample in range(len(boxes))
    ]

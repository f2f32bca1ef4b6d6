"""What a trained prompt generator draws for expressions that it never saw: figures and paths."""

import base64
from collections.abc import Mapping, Sequence

from torch import Tensor

from system.report.pages.mask_page import mask_strip
from system.report.pages.model_page import model_page


def generator_page(
    title: str,
    figures: Mapping[str, str],
    ious: Mapping[str, float],
    texts: Sequence[str],
    paths: Tensor | None,
) -> str:
    """A self-contained page.

    Args:
        title: the run's name.
        figures: the main figures by name.
        ious: the IoU of each kind of mask.
        texts: one expression a row of `paths`.
        paths: [n, 1 + steps, H, H] in [-1, 1], the true mask first; None where they are lost.
    """
    strips = (
        []
        if paths is None
        else [
            (text, base64.b64encode(mask_strip(masks)).decode())
            for text, masks in zip(texts, paths, strict=True)
        ]
    )
    return model_page("generator.html", title, figures, ious=ious, paths=strips)

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from system.report.pages.model_pages import COLUMNS, GAP, mask_grid, mask_page


def test_each_mask_stands_above_its_reconstruction() -> None:
    """Pairs that do not belong together would show a bad model as a good one, or the reverse."""
    masks = torch.full((COLUMNS + 1, 1, 8, 8), -1.0)
    reconstructions = torch.zeros_like(masks)
    masks[-1], reconstructions[-1] = 1.0, -1.0
    pixels = np.asarray(Image.open(io.BytesIO(mask_grid(masks, reconstructions))))
    second = 2 * 8 + 3 * GAP + GAP  # top of the second row of pairs
    assert pixels[GAP, GAP] == 0
    assert pixels[GAP + 8 + GAP, GAP] == 128
    assert pixels[second, GAP] == 255
    assert pixels[second + 8 + GAP, GAP] == 0


def test_page_holds_its_values_and_no_text_of_a_dataset_as_markup() -> None:
    page = mask_page("run", {"seed": "3"}, {"<b>task": 0.25}, mask_grid(*torch.ones(2, 1, 1, 4, 4)))
    assert "0.250" in page
    assert "&lt;b&gt;task" in page
    assert "<b>task" not in page
    assert "data:image/png;base64," in page

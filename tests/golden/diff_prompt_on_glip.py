"""Checks Diff-Prompt on GLIP: its prompts in both towers, as released and right, and the boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from system.grounders.entries import Entries
from system.grounders.swin_prompts import WindowEntry
from system.methods.parts import read_at_widths
from tests.golden.prompted_glip import batch_of, boxes_of, glip_of, seen, weights_of
from tests.golden.runner import Fixture, Tolerance, check

Outputs = Mapping[str, NDArray[Any]]

#: As released; as released, but for one image at a time; right.
RUNS = {
    "released_batch": WindowEntry(tiling="released", relative_bias="released"),
    "released_single": WindowEntry(relative_bias="released"),
    "corrected": WindowEntry(),
}


@check("diff_prompt_on_glip", {"out_boxes": Tolerance(absolute=0.02), "*": Tolerance(scaled=5e-5)})
def _diff_prompt_on_glip(fixture: Fixture) -> Outputs:
    config = json.loads(str(fixture["config_json"]))
    grounder = glip_of(
        weights_of(fixture), config["bert"]["num_attention_heads"], upsampling=config["resize"]
    )
    vision, text = (
        list(torch.from_numpy(fixture[f"in_{name}_prompts"])) for name in ("visual", "text")
    )
    vision = read_at_widths(vision, grounder.shape.vision_widths[: len(vision)])
    each = {
        run: Entries(text=text, windows=replace(rules, after_norm=vision))
        for run, rules in RUNS.items()
    }
    outputs: dict[str, NDArray[Any]] = {}
    for run, entries in each.items():
        found = seen(grounder, batch_of(fixture), entries)
        outputs |= {f"out_{run}_c{i}": level.numpy() for i, level in enumerate(found.levels, 2)}
    first = fixture["out_text_hidden"].shape[1]
    outputs["out_text_hidden"] = found.texts[-1][:, :first].numpy()
    outputs["out_text_embedded"] = found.embedded[:, :first].numpy()
    alone = Entries(
        text=[prompt[:1] for prompt in text],
        windows=replace(RUNS["released_single"], after_norm=[prompt[:1] for prompt in vision]),
    )
    return outputs | boxes_of(grounder, fixture, alone)

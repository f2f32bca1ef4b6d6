"""Checks of prompt pools: each feeds a fixture's inputs to the product's own code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from system.backbones.prompt_entry import PromptEntry
from system.methods.keys import cosines, mean_token
from system.methods.pools.l2p import choose_prompts, chosen_prompts, pull
from tests.golden.runner import Fixture, check


@check("l2p")
def _l2p(fixture: Fixture) -> Mapping[str, NDArray[Any]]:
    pool, keys, embedded = (torch.from_numpy(fixture[n]) for n in ("pool", "keys", "embedded"))
    similarity = cosines(mean_token(embedded), keys)
    top_k = fixture["index_per_sample"].shape[1]
    # What enters a tower's first layer; in the fixture, in the place of the first tokens.
    tower, entry = nn.Identity(), PromptEntry([nn.Identity()], first=0)
    entry.replace_after(tower)
    outputs = {}
    for case in ("batchwise", "per_sample"):
        chosen = choose_prompts(similarity, top_k, batchwise=case == "batchwise")
        with entry.active(chosen_prompts(pool, chosen)[:, None]):
            prompted = tower(embedded)
        outputs[f"index_{case}"] = chosen.numpy()
        outputs[f"prompted_{case}"] = prompted.numpy()
        outputs[f"pull_{case}"] = pull(similarity, chosen).mean().numpy()
    return outputs

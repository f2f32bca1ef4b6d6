"""Which GPU each worker computes on: NCCL's collectives need one of its own for each."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.distributed as dist

from system.errors import ConfigError


def card_of(device: torch.device) -> str:
    """The GPU's name among those of all hosts."""
    properties = torch.cuda.get_device_properties(device)
    identity = getattr(properties, "uuid", None) or f"{properties.name} number {device.index}"
    return f"{identity} of {socket.gethostname()}"


def cards_of_all(device: torch.device, size: int) -> list[str]:
    """The GPU of each of `size` ranks, in their order; every rank calls this.

    By gloo on the hosts' own network: NCCL would fail, or wait, at the first thing it is asked.
    """
    cards: list[str] = [""] * size
    group = dist.new_group(backend="gloo")
    dist.all_gather_object(cards, card_of(device), group=group)
    dist.destroy_process_group(group)
    return cards


def require_own_cards(cards: Sequence[str]) -> None:
    """Raises ConfigError naming the first GPU that several ranks compute on."""
    ranks: defaultdict[str, list[int]] = defaultdict(list)
    for rank, card in enumerate(cards):
        ranks[card].append(rank)
    for card, sharing in ranks.items():
        if len(sharing) > 1:
            named = ", ".join(map(str, sharing))
            raise ConfigError(
                f"workers {named} compute on one GPU ({card}), and NCCL, by which they exchange "
                f"gradients, needs one for each: set cluster.workers={len(ranks)}, or give each "
                "worker a whole GPU"
            )

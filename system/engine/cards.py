"""Which GPU each worker computes on: NCCL's collectives need one of its own for each."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.distributed as dist

from system.errors import ConfigError


def own_device(gpu: bool, what: str) -> torch.device:
    """The device of work that is done in this process, without workers.

    Raises ConfigError for a GPU where there is none, as on a cluster's head node; `what` says what
    would compute here, and how else it could be done.
    """
    if gpu and not torch.cuda.is_available():
        raise ConfigError(
            f"cluster.gpu=true, and this machine ({socket.gethostname()}) has no GPU: {what}, or "
            "set cluster.gpu=false"
        )
    return torch.device("cuda" if gpu else "cpu")


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

"""NCCL with two ranks on one GPU is refused with a line, not with a hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys

import torch
import torch.distributed as dist

from system.engine.cards import cards_of_all, require_own_cards
from system.errors import ConfigError

rank, place = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("nccl", init_method=f"file://{place}", rank=rank, world_size=2)
try:
    require_own_cards(cards_of_all(torch.device("cuda", 0), 2))
except ConfigError as error:
    print(error)
"""


@pytest.mark.gpu
def test_two_ranks_on_one_card_are_refused(tmp_path: Path) -> None:
    """Before anything is trained, and on both of them."""
    place = tmp_path / "rendezvous"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(place)],
            cwd=ROOT,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for rank in ranks:
        printed, _ = rank.communicate(timeout=120)
        assert "workers 0, 1 compute on one GPU" in printed

"""The script that tells a GPU's owner what a step costs, run small on the CPU."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: As if neither Ray nor pyarrow nor Hydra were installed.
PROGRAM = """
import sys

for name in ("ray", "pyarrow", "hydra", "omegaconf"):
    sys.modules[name] = None

from tests.gpu.throughput import main

main(sys.argv[1:])
"""


def test_it_needs_neither_ray_nor_pyarrow_and_names_every_kind_of_step() -> None:
    small = "--device cpu --layers 1 --batch 2 --steps 1 --rounds 1 --bf16"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *small.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    head, *lines = done.stdout.splitlines()
    assert "batch 2, 1 layers" in head
    assert [line[:30].strip() for line in lines] == [
        *("plain PyTorch, fp32", "ours, fp32", "ours, fp32, whole context"),
        *("plain PyTorch, bf16 autocast", "ours, bf16"),
    ]
    assert lines[0].endswith("x1.00 of plain fp32")
    assert all(float(line[30:].split()[0]) > 0 for line in lines)

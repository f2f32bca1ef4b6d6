"""The learning core works where Ray, pyarrow and Hydra are not installed, as in a notebook."""

import subprocess
import sys
from pathlib import Path

#: A training step of LPI and an evaluation, with the imports of the rest refused.
PROGRAM = """
import sys

for name in ("ray", "pyarrow", "hydra", "omegaconf"):
    sys.modules[name] = None  # as if it were not installed

import torch

from system.backbones.dual_encoder import MODALITIES, load_backbone, unit
from system.config.schema import BackboneConfig
from system.diff_prompt.mask_vae import mask_vae_network
from system.diff_prompt.prompt_generator import mask_dit, noise, sampling
from system.grounders import grounder, grounding_dino
from system.methods.base import METHODS, MethodSetting
from system.methods.losses import contrastive_loss
from system.methods.sharing import build_method
from system.results import accuracy_matrix, metrics, ranks, rec, recall
from system.results import replay_audit, stream_metrics

for method in METHODS:
    METHODS.get(method)

backbone = load_backbone(BackboneConfig("clip", "shipped:tiny_clip"))
section = {"name": "lpi", "prompt_length": 4, "text_prompt_length": 1}
method = build_method(section, MethodSetting(backbone.shape, seed=0))
method.begin_task(0, backbone)
optimiser = torch.optim.Adam(method.task_parameters(0).values(), lr=0.01)
size = backbone.shape.image_size
inputs = {
    "vision": torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(0)),
    "text": backbone.tokenize(
        ["a cat", "a dog", "a bus", "an apple", "a chair", "a book"], method.placeholders
    ),
}
tasks = torch.zeros(6, dtype=torch.long)


def features():
    return {m: unit(method.encode(backbone, m, inputs[m], tasks)) for m in MODALITIES}


losses = []
for _ in range(2):
    optimiser.zero_grad()
    found = features()
    loss = contrastive_loss(backbone.logit_scale * found["vision"] @ found["text"].T)
    losses.append(float(loss.detach()))
    sum(method.regularisers(None).values(), loss).backward()
    optimiser.step()
assert losses[1] < losses[0], losses

with torch.no_grad():
    found = features()
found = ranks.retrieval_ranks(
    found["vision"], found["text"], torch.arange(6), tasks, tasks=[0], gallery="all", seen=[0]
)
rows = accuracy_matrix.matrix_rows(0, recall.retrieval_metrics(found))
matrix = accuracy_matrix.AccuracyMatrix(["things"], rows)
print(stream_metrics.AVERAGE.of(matrix, "t2i_r1").value)
"""


def test_a_training_step_and_an_evaluation_need_neither_ray_nor_pyarrow_nor_hydra() -> None:
    """Who only wants to learn a prompt in a notebook should not need a cluster's packages."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 <= float(done.stdout.split()[-1]) <= 100

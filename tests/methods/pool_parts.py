"""A small SigLIP beside the CLIP of `method_parts`, and a step of training, for prompt pools."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from system.backbones.dual_encoder import MODALITIES, BackboneShape, DualEncoder, Modality
from system.backbones.siglip import load_siglip
from system.methods.base import RetrievalSetting
from system.methods.sharing import StreamMethod, build_method
from tests.backbones.small_siglip import write_small_siglip
from tests.methods.method_parts import LAYERS, TEXTS, WORDS, backbone, images

KINDS = ["clip", "siglip"]


@cache
def tower_pair(kind: str) -> DualEncoder:
    """A random frozen model of a kind, shared by tests."""
    if kind == "clip":
        return backbone()
    with tempfile.TemporaryDirectory() as directory:
        return load_siglip(str(write_small_siglip(Path(directory), WORDS, layers=LAYERS)))


def made(name: str, kind: str = "clip", *, tasks: int = 1, **section: Any) -> StreamMethod:
    """A method for a kind of backbone, with its last task begun."""
    shape = tower_pair(kind).shape
    method = build_method({"name": name} | section, RetrievalSetting(shape, 0))
    method.begin_task(tasks - 1, tower_pair(kind))
    return method


def inputs(method: StreamMethod, modality: Modality, kind: str = "clip") -> Tensor:
    """Five images, or the ids of five texts with room for the method's prompt."""
    if modality == "vision":
        return images()
    return tower_pair(kind).tokenize(TEXTS, method.placeholders)


def tasks_of(method: StreamMethod) -> Tensor:
    """The current task for each of the five samples, as in training."""
    return torch.full((len(TEXTS),), method.current)


def train_step(method: StreamMethod, kind: str = "clip", rate: float = 0.1) -> dict[str, Tensor]:
    """One step of SGD on everything that training adds up; each sample's loss terms, (B,)."""
    loss = torch.zeros(())
    found: dict[str, Tensor] = {}
    for modality in MODALITIES:
        features, terms = method.encode_training(
            tower_pair(kind), modality, inputs(method, modality, kind)
        )
        loss = loss + features.square().sum() + sum(term.mean() for term in terms.values())
        found |= {f"{modality}.{name}": term.detach() for name, term in terms.items()}
    for term in method.regularisers(None).values():
        loss = loss + term
    method.zero_grad()
    torch.autograd.backward(loss)
    trained = [p for p in method.parameters() if p.requires_grad]
    torch.optim.SGD(trained, lr=rate).step()
    return found


def alone(method: StreamMethod, model: DualEncoder, modality: Modality, given: Tensor) -> Tensor:
    """Features of samples that are encoded one by one."""
    tasks = tasks_of(method)
    rows = [
        method.encode(model, modality, given[i : i + 1], tasks[i : i + 1])
        for i in range(len(given))
    ]
    return torch.cat(rows)


def parameters_at_published_sizes(name: str, tasks: int, **section: Any) -> tuple[int, int]:
    """Trainable numbers of a task, and of all tasks, for ViT-B/16."""
    shape = BackboneShape(
        vision_layers=12,
        text_layers=12,
        vision_width=768,
        text_width=512,
        feature_width=512,
        image_size=224,
        context_length=77,
    )
    method = build_method({"name": name} | section, RetrievalSetting(shape, 0))
    method.begin_task(tasks - 1, tower_pair("clip"))
    return method.parameters_per_task(), method.parameters_in_all()


def flat(method: StreamMethod) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in method.parameters()])

"""What a sample costs in each part of a model: FLOPs, and bytes kept for the backward pass.

Counted by PyTorch's FlopCounterMode where the model runs on sizes alone, on the meta device: a dual
encoder needs no more than its config.json. A grounder's losses look at values, so that it is run on
one sample. A multiplication with its addition is two FLOPs, as vendors count them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from system.backbones.clip import ClipBackbone
from system.backbones.computation import Computation
from system.backbones.dual_encoder import DualEncoder, load_backbone, resolved
from system.backbones.siglip import SiglipBackbone
from system.config.schema import BackboneConfig, ExperimentConfig
from system.data.shards.split_objects import ReferredExpression
from system.engine.global_batch import TokenBatch
from system.errors import ConfigError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GroundingBatch, load_grounder
from system.methods.base import GroundingSetting, RetrievalSetting
from system.methods.sharing import StreamMethod, build_method
from system.planning.stream_work import IMAGE, PAIR, TEXT
from system.planning.work import Mode
from system.uris import expanded

DEVICE = "meta"  # of what is counted
SAMPLES = 2  # of a dual encoder's counted batch
OF_TYPE = {"clip": ClipBackbone, "siglip": SiglipBackbone}  # as config.json names it


@dataclass(frozen=True)
class Cost:
    """Of one sample."""

    flops: float
    saved: float = 0.0  # bytes in float32 that the backward pass needs


@dataclass(frozen=True)
class Costs:
    """Of all parts of one run's models, by part and mode; of the weights; of what is trained."""

    of: Mapping[tuple[str, Mode], Cost]
    weights: int  # bytes
    trainable: int  # parameters of a task
    feature_width: int = 0
    image_bytes: int = 0  # of one image as bytes, at the model's size
    notes: tuple[str, ...] = field(default=())


class _OnMeta(Computation):
    """The same layers without autocast, which knows no meta device."""

    @override
    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=False)


@contextmanager
def offline() -> Iterator[None]:
    """Load nothing over the network inside the block: a plan is to be had at once."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def sketch(config: BackboneConfig) -> DualEncoder:
    """A dual encoder without values, from the sizes in its config.json.

    Raises ConfigError where that is not on this machine; of a kind that is not known here its
    weights have to be.
    """
    from transformers import AutoConfig, AutoModel

    path = resolved(config.path)
    local = expanded(path)
    try:
        sizes = AutoConfig.from_pretrained(  # nosec B615  # nothing is fetched
            str(local) if local.exists() else path, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"backbone.path={path!r}: its config.json is not on this machine, so that its "
            f"arithmetic is not known; `hf download {path} config.json` fetches it"
        ) from error
    made = OF_TYPE.get(sizes.model_type)
    if made is None:
        with offline():
            backbone = load_backbone(config)
        backbone.computation = _OnMeta("fp32")
        return backbone.to("meta")
    with torch.device("meta"):
        model = AutoModel.from_config(sizes)
    computation = _OnMeta("fp32", gradient_checkpointing=config.gradient_checkpointing)
    return made(model, name=path, computation=computation)


def retrieval_costs(experiment: ExperimentConfig, tasks: int) -> Costs:
    """Of both towers; a method of several tasks is counted at its second one.

    A text has as many tokens as the model reads at most. Raises ConfigError as `sketch` does, or
    for a method that does not fit.
    """
    backbone = sketch(experiment.backbone)
    length = backbone.shape.context_length
    notes = [f"a text is counted at the {length} tokens that the model reads at most"]
    try:
        return _of_towers(experiment, backbone, tasks, notes)
    except (NotImplementedError, RuntimeError) as error:
        # Its initial values, or its way through the towers, depend on values.
        notes.append(
            f"method={experiment.method['name']} does not run on sizes alone "
            f"({' '.join(str(error).split())[:80]}): counted as plain passes, training as three"
        )
        return _of_towers(experiment, backbone, 0, notes)


def _of_towers(
    experiment: ExperimentConfig, backbone: DualEncoder, tasks: int, notes: list[str]
) -> Costs:
    shape = backbone.shape
    with torch.device(DEVICE):
        images = torch.zeros(SAMPLES, 3, shape.image_size, shape.image_size)
        ids = torch.zeros(SAMPLES, shape.context_length, dtype=torch.long)
    inputs = {"vision": images, "text": ids}
    costs: dict[tuple[str, Mode], Cost] = {}
    for part, modality in ((IMAGE, "vision"), (TEXT, "text")):
        plain = counted(lambda m=modality: backbone(m, inputs[m], None), SAMPLES)  # type: ignore[misc]
        costs[part, "plain"] = plain
        costs[part, "prompted"] = plain
        costs[part, "training"] = Cost(3 * plain.flops)
    weights = bytes_of(backbone)
    sizes = (shape.feature_width, 3 * shape.image_size**2)
    if not tasks:
        return Costs(costs, weights, 0, *sizes, tuple(notes))
    method = build_method(experiment.method, RetrievalSetting(backbone.shape, experiment.seed))
    for task in range(min(tasks, 2)):
        method.begin_task(task, backbone)
    method.to(DEVICE)
    if method.trains_on == "nothing":
        return Costs(costs, weights, 0, *sizes, tuple(notes))
    object_ = method.of(method.current)
    kept = {id(p) for p in (*backbone.parameters(), *method.parameters())}
    ends: dict[Any, Tensor] = {}
    for part, modality in ((IMAGE, "vision"), (TEXT, "text")):
        costs[part, "prompted"] = counted(
            lambda m=modality: object_.encode(backbone, m, inputs[m]),  # type: ignore[misc]
            SAMPLES,
        )

        def trained(m: Any = modality) -> Tensor:
            ends[m], terms = object_.encode_training(backbone, m, inputs[m])
            return torch.stack([ends[m].sum(), *(term.sum() for term in terms.values())]).sum()

        costs[part, "training"] = counted(trained, SAMPLES, trains=True, kept=kept)
    if method.has_loss_terms:  # which may ask the towers again
        batch, features = TokenBatch(images, ids), {m: end.detach() for m, end in ends.items()}
        more = counted(lambda: list(method.loss_terms(batch, features).values()), SAMPLES)
        for part in (IMAGE, TEXT):
            own = costs[part, "training"]
            costs[part, "training"] = Cost(own.flops + more.flops / 2, own.saved)
    return Costs(costs, weights, method.parameters_per_task(), *sizes, tuple(notes))


def grounding_costs(experiment: ExperimentConfig, sample: ReferredExpression) -> Costs:
    """Of an image with an expression, by one sample of the benchmark's size on this machine.

    Raises ConfigError where the grounder's weights are not here, or a method does not fit.
    """
    assert experiment.grounder is not None, "the objective asks for one"
    with offline():
        grounder = load_grounder(replace(experiment.grounder, precision="fp32"))
    picture = Image.new("RGB", (sample.width, sample.height))
    pixels = grounder.image_transform()(picture, None)
    side = grounder.side_multiple
    height, width = (-(-int(n) // side) * side for n in pixels.shape[1:])
    images = torch.zeros(1, 3, height, width)
    images[0, :, : pixels.shape[1], : pixels.shape[2]] = pixels
    boxes = grounder.learned_boxes(torch.tensor(sample.boxes), sample.width, sample.height)
    sizes = None if images.shape[1:] == pixels.shape else torch.tensor([pixels.shape[1:]])
    batch = GroundingBatch(images, grounder.tokenize([sample.text]), [boxes], sizes)
    notes = ["the grounder's FLOPs are those of one sample, run on this machine"]
    plain = counted(lambda: grounder.ground(batch, Entries()), 1)
    costs: dict[tuple[str, Mode], Cost] = {
        (PAIR, "plain"): plain,
        (PAIR, "prompted"): plain,
        (IMAGE, "plain"): counted(lambda: grounder.routing_features(images, sizes), 1),
        (TEXT, "plain"): counted(lambda: grounder.text_features(batch.tokens), 1),
        (PAIR, "training"): Cost(3 * plain.flops),
    }
    trainable = 0
    try:
        method = build_method(experiment.method, GroundingSetting(grounder.shape, experiment.seed))
    except ConfigError as error:
        if "Mask-VAE" not in str(error):
            raise
        notes.append("prompts from latents are not counted: training as three plain passes")
        return Costs(costs, bytes_of(grounder), trainable, notes=tuple(notes))
    method.begin_task(0, grounder)
    if method.trains_on != "nothing":
        trainable = method.parameters_per_task()
        costs |= _under(method, grounder, batch)
    width = grounder.routing_width
    return Costs(costs, bytes_of(grounder), trainable, width, notes=tuple(notes))


def _under(
    method: StreamMethod, grounder: Grounder, batch: GroundingBatch
) -> dict[tuple[str, Mode], Cost]:
    tasks = torch.zeros(1, dtype=torch.long)
    kept = {id(p) for p in (*grounder.parameters(), *method.parameters())}

    def entries() -> Entries:
        return method.entries(grounder, batch, tasks, None)

    def trained() -> Tensor:
        return torch.stack([t.sum() for t in grounder.losses(batch, entries()).values()]).sum()

    return {
        (PAIR, "prompted"): counted(lambda: grounder.ground(batch, entries()), 1),
        (PAIR, "training"): counted(trained, 1, trains=True, kept=kept),
    }


def counted(
    run: Callable[[], Any],
    samples: int,
    *,
    trains: bool = False,
    kept: set[int] | frozenset[int] = frozenset(),
) -> Cost:
    """What `run` costs per sample; where it `trains` it gives a loss, and goes back from it.

    `kept` are the ids of parameters: there already, whether or not the backward pass needs them.
    """
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in kept and not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            saved[storage._cdata] = storage.nbytes()
        return tensor

    # Attention by plain products: the counter does not know the CPU's own kernel.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        if trains:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = run()
            torch.autograd.backward(loss)
        else:
            with torch.no_grad():
                run()
    return Cost(counter.get_total_flops() / samples, sum(saved.values()) / samples)


def bytes_of(module: nn.Module) -> int:
    """Of a module's parameters and buffers, as they are stored."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))

"""The one interface of everything that is trained on a frozen model, and its registry.

A method object holds the trainable parameters of one task and says what of them enters a dual
encoder, a grounder, or both. How a stream of tasks learns it is `system.methods.sharing`'s.

Legend: B batch, L prompted layers, N prompt length, D width of a layer, P feature width,
K tasks so far, C latent channels, h w latent height and width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from system.backbones.dual_encoder import BackboneShape, Deep, DualEncoder, Modality
from system.config.parse import parse_dataclass
from system.errors import ConfigError
from system.grounders.entries import Entries
from system.grounders.grounder import Grounder, GrounderShape, GroundingBatch
from system.registry import Registry

Objective = Literal["retrieval", "grounding"]
#: How a stream learns a method: each task parameters of its own, found again by the router; one
#: object that goes on from task to task; or nothing, which is the frozen model as it is.
Sharing = Literal["own", "shared", "frozen"]
#: What a task's training reads: nothing, the task's own data, or all tasks' data at once at the
#: end of the stream (declared replay, an upper bound).
TrainsOn = Literal["nothing", "task", "all"]
#: What tells how alike two tasks are: features of their training captions or images, of their
#: names, or a given matrix.
SimilaritySource = Literal["captions", "names", "images", "matrix"]
#: A method's form on a grounder: its own paper's, or that of Diff-Prompt's comparison.
Variant = Literal["original", "diff_prompt"]

_BETWEEN_SEEDS = 1_000_003  # a prime keeps the tasks of neighbouring seeds apart
Shape = TypeVar("Shape", bound=BackboneShape | GrounderShape)


class DecodesMasks(Protocol):
    """Turns latents into masks, for methods whose prompts come from latents."""

    @property
    def image_size(self) -> int:
        """Side H of a mask, in pixels."""
        ...

    def __call__(self, latents: Tensor) -> Tensor:
        """Masks (n, 1, H, H), of the range that the decoder learned, of latents (n, C, h, w)."""
        ...


@dataclass(frozen=True)
class MethodSetting(Generic[Shape]):
    """The parts that a method is built from, beside its own section of the config."""

    shape: Shape
    seed: int
    masks: DecodesMasks | None = None
    task: int = 0  # whose parameters these are, where each task has its own

    @property
    def objective(self) -> Objective:
        """The objective of a model of this shape."""
        return "grounding" if isinstance(self.shape, GrounderShape) else "retrieval"

    def generator(self) -> torch.Generator:
        """The generator of initial values."""
        seed, task = self.seed, self.task
        if self.objective == "retrieval":
            seed, task = task, seed
        return torch.Generator().manual_seed(seed + task * _BETWEEN_SEEDS)


RetrievalSetting = MethodSetting[BackboneShape]
GroundingSetting = MethodSetting[GrounderShape]


#: Where the masks of instance prompts come from: the prompt generator, or one of its controls. See
#: `system.diff_prompt.mask_sources` for what each is.
MaskSource = Literal["generated", "true", "shuffled", "mean", "regressed"]


@dataclass(frozen=True)
class LatentNeeds:
    """Which latents of the denoising path a method takes of each sample, or of a control."""

    generator: Mapping[str, Any]  # settings of the stage whose model makes them
    layers: int  # L: one latent a prompted layer
    steps: int  # of denoising
    stride: int  # from one layer's latent back to the next one's
    guidance: float
    fresh_noise: bool  # new ones each epoch
    source: MaskSource = "generated"


@dataclass(frozen=True)
class TaskBatch:
    """One global batch of a task that was just learned, as `Method.end_task` gets it."""

    #: This worker's micro-batches: `TokenBatch` on a dual encoder, `GroundingBatch` on a grounder.
    parts: Sequence[Any]
    #: The gradient of the objective's own loss, without the method's terms, over the global batch:
    #: by the parameter's name, the same on all workers, all of which have to call it.
    gradients: Callable[[], dict[str, Tensor]]


class Method(nn.Module):
    """Trainable parameters of one task, and what of them enters a frozen model: here nothing.

    A subclass overrides what it changes: `prompt` or `encode` for a dual encoder, `entries` for a
    grounder. It never changes the frozen model. Its config dataclass and its `MethodSetting` come
    to `__init__`.
    """

    #: Whether one object adds parameters with each task that it goes on to, and finds a sample's
    #: among them by itself: `task_parameters` then names those of one task.
    grows: ClassVar[bool] = False
    #: Whether what it trains starts from the frozen model's weights: they are then kept in float32.
    trains_weights: ClassVar[bool] = False
    #: Whether the entries of samples of several tasks can stand in one batch.
    per_sample: ClassVar[bool] = True
    #: Whether `entries` needs what the prompt generator made of each sample.
    needs_latents: ClassVar[bool] = False
    #: How the prompts of a dual encoder's layers enter.
    deep: Deep = "add"
    #: Tokens that a text must leave free for a prompt.
    placeholders: int = 0
    #: Which latents of each sample; None for methods without.
    latent_needs: LatentNeeds | None = None
    #: Where the `similarity` that `regularisers` gets comes from.
    similarity_source: SimilaritySource = "captions"
    #: Whether that `similarity` is of features centred over the tasks so far.
    similarity_centred: bool = False
    #: Place in the stream of the task that it learns or learned last.
    index: int = 0

    def __init__(self, config: object = None, setting: object = None) -> None:
        super().__init__()

    def begin_task(self, task: int, model: nn.Module) -> None:
        """Get ready to learn a task: once, or of a shared object at each task.

        Parameters that need the frozen `model`, or what earlier tasks learned, are made here. A
        task's saved parameters are put in their place after this.
        """
        self.index = task

    def end_task(self, features: Mapping[Modality, Tensor], batches: Iterable[TaskBatch]) -> None:
        """Take in a task that was just learned, for what later ones must not change.

        `features` are the frozen model's own unit features of the task's training images (I, P)
        and texts (T, P). `batches` are one more epoch of the task; who does not iterate them pays
        nothing. What is kept belongs into buffers, which are saved with the task.
        """

    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """The parameters that a task trains, by name."""
        return dict(self.named_parameters())

    def task_state(self, task: int) -> dict[str, Tensor]:
        """All that a task's adapter file holds of the method: its parameters and the buffers."""
        return {**self.task_parameters(task), **dict(self.named_buffers())}

    def prompt(self, modality: Modality) -> Tensor | None:
        """The prompt (L, N, D) of all samples of a dual encoder's tower; None: it gets none."""
        return None

    def encode(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        """Features (B, P), not normalised, of inputs (B, ...): those under the prompt."""
        prompt = self.prompt(modality)
        features: Tensor = backbone(
            modality, inputs, None if prompt is None else prompt[None], self.deep
        )
        return features

    def encode_training(
        self, backbone: DualEncoder, modality: Modality, inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The features that `encode` gives, and weighted loss terms of each sample, (B,) by name.

        A term's mean over the global batch, and over the modalities that have it, is added to the
        loss.
        """
        return self.encode(backbone, modality, inputs), {}

    def entries(self, grounder: Grounder, batch: GroundingBatch, latents: Tensor | None) -> Entries:
        """Prompts and functions that enter the grounder for a batch of images and expressions.

        `latents` (B, L, C, h, w), one a prompted layer, come for methods that need them; they are
        None for all others. The batch's targets are for the loss alone.
        """
        return Entries()

    def regularisers(
        self, earlier: Sequence[Self] = (), similarity: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted loss terms of the parameters alone.

        `earlier` are the frozen objects of the tasks before, where each task has its own, and
        `similarity` (K, K) is that of the tasks so far.
        """
        return {}

    def attracts(self, similarity: Tensor) -> Tensor | None:
        """Which tasks' parameters the method pulls together, (K, K) bool; None: it compares none.

        `similarity` (K, K) is that of the tasks so far.
        """
        return None

    def loss_terms(self, batch: Any, features: Mapping[Modality, Tensor]) -> dict[str, Tensor]:
        """Weighted scalar loss terms of a micro-batch, of the parameters or of both towers' ends.

        `features` are what left the towers under the method, with their graph: on a dual encoder
        unit features (B, P) of images and texts, on a grounder the means of the image's levels and
        of the text's tokens. `batch` is one of `TaskBatch.parts`. A term's mean over the global
        batch's micro-batches is added to the loss.
        """
        return {}


@dataclass(frozen=True)
class MethodFactory:
    """How a registered method is built: its config dataclass, and its class on each objective.

    `sharing` is how a stream learns it unless `method.sharing` says otherwise; `no_sharing` are the
    values that mean nothing for this method, each with the reason, as the end of a sentence.
    `renamed` are keys of its config that earlier versions wrote, with what they are called now.
    `refusal` says why it has no class on the other objective, where there is a reason.
    `diff_prompt` is the class of the config's `variant` of that name, on a grounder.
    """

    config: type[Any]
    retrieval: type[Method] | None = None
    grounding: type[Method] | None = None
    sharing: Sharing = "shared"
    trains_on: TrainsOn = "task"
    no_sharing: Mapping[Sharing, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    refusal: str | None = None
    diff_prompt: type[Method] | None = None

    @property
    def starts(self) -> bool:
        """Whether `task_start` is a key of the method's own config."""
        return any(entry.name == "task_start" for entry in fields(self.config))

    def on(self, objective: Objective) -> type[Method] | None:
        """The method's class on an objective; None if it has none."""
        return self.grounding if objective == "grounding" else self.retrieval


METHODS: Registry[MethodFactory] = Registry("method", "system.methods", "METHOD")
_ELSEWHERE: Mapping[Objective, str] = {
    "retrieval": (
        "learns on a grounder, by expressions and boxes: use experiment=rec; a stream of "
        "retrieval tasks takes one of"
    ),
    "grounding": (
        "learns a stream of retrieval tasks: use experiment=demo; a grounder takes one of"
    ),
}


def methods_on(objective: Objective) -> list[str]:
    """The names of all methods that an objective takes."""
    return [name for name in METHODS if METHODS.get(name).on(objective) is not None]


def method_class(name: str, objective: Objective) -> type[Method]:
    """A method's class. Raises ConfigError for an unknown name, or one of the other objective."""
    factory = METHODS.get(name)
    found = factory.on(objective)
    if found is None:
        known = ", ".join(methods_on(objective))
        if factory.refusal is not None:
            raise ConfigError(f"method={name} {factory.refusal}; take one of {known}")
        raise ConfigError(f"method={name} {_ELSEWHERE[objective]} {known}")
    return found


def build_task_method(section: Mapping[str, Any], setting: MethodSetting[Any]) -> Method:
    """The method of one task that a config section names, its parameters as the seed makes them.

    Raises ConfigError for an unknown name or key, a wrong value, or sizes that do not fit.
    """
    factory, made = METHODS.get(section["name"]), method_class(section["name"], setting.objective)
    own = {
        factory.renamed.get(key, key): value
        for key, value in section.items()
        if key not in ("name", "sharing") and not (key == "task_start" and not factory.starts)
    }
    config = parse_dataclass(factory.config, own, "method")
    if getattr(config, "variant", "original") == "diff_prompt":
        if setting.objective != "grounding" or factory.diff_prompt is None:
            raise ConfigError(
                f"method.variant=diff_prompt: that form of method={section['name']} is one on a "
                "grounder; use original"
            )
        made = factory.diff_prompt
    return made(config, setting)

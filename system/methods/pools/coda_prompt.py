"""CODA-Prompt: prompts as sums of components, weighted for each sample by its query.

Smith et al., "CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free
Continual Learning", CVPR 2023 (arXiv 2211.13218), for a dual encoder: both towers have components
of their own in each of their first layers. A task adds components and freezes the older ones; a
sample's prompt is a sum over all of them, so no task has to be inferred. The query is the frozen
model's own feature.

A layer's prompt enters as a prefix of its attention, half of it before the keys and half before the
values, as in the paper's released code (GT-RIPL/CODA-Prompt). With `entry: prompt` it is tokens in
the place of those of the layer before; results of before `entry` was an option are of that form.

The released code multiplies its penalty, the mean of the squares, by 1e-6, and its scripts weigh it
with 0: new components start orthogonal to the older ones. Before `entry` was an option, the weight
was 0.1 here, without that factor.

With `sharing: own` each task has its own components alone, and the router names the task.

Legend: B batch, L layers entered, M components so far, C components a task, N prompt length,
D tower width, P feature width, F numbers in a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from system.backbones.dual_encoder import MODALITIES, BackboneShape, Deep, DualEncoder, Modality
from system.methods.base import Method, MethodFactory, RetrievalSetting
from system.methods.keys import feature_query, require_room
from system.methods.parts import check_at_least, prompt_lengths

Kind = Literal["component", "key", "attention"]
KINDS: tuple[Kind, Kind, Kind] = ("component", "key", "attention")
SMALLEST = 1e-12


def component_weights(query: Tensor, attention: Tensor, keys: Tensor) -> Tensor:
    """Weights (B, L, M) of the components: the cosine of query x attention to the key.

    The paper's prompt-component attention, alpha_m = cos(q * A_m, K_m), from queries (B, P),
    attention vectors and keys (L, M, P). The products (B, L, M, P) are never held: both the dot
    product and the squared norm are matrix products.
    """
    keys = nn.functional.normalize(keys, dim=-1)
    dot = torch.einsum("bp,lmp->blm", query, attention * keys)
    squared = torch.einsum("bp,lmp->blm", query.square(), attention.square())
    return dot / squared.clamp_min(SMALLEST).sqrt()


def orthogonality(rows: Tensor) -> Tensor:
    """How far rows (L, M, F) are from orthonormal: the mean of (rows rows^T - I)^2, summed over L.

    The paper's L_ortho(B) = ||B B^T - I||^2, with the released code's mean over the elements in
    place of their sum.
    """
    identity = torch.eye(rows.shape[1], device=rows.device)
    return (rows @ rows.transpose(1, 2) - identity).square().mean((1, 2)).sum()


def orthogonal_rows(old: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random unit rows (count, F), orthogonal to each other and to the `old` rows (M, F).

    Gram-Schmidt, as released. Only F rows can be orthogonal: those beyond are random directions.
    """
    before, width = old.shape
    drawn = torch.randn(count, width, generator=generator)
    fitting = max(0, min(count, width - before))
    basis = torch.linalg.qr(torch.cat([old, drawn[:fitting]]).T).Q.T  # (min(M + fitting, F), F)
    fresh = basis[len(basis) - fitting :]
    return torch.cat([fresh, nn.functional.normalize(drawn[fitting:], dim=1)])


@dataclass(frozen=True)
class CodaPromptConfig:
    """The settings of CODA-Prompt.

    `prompt_depth` is of each tower, or as many layers as it has; `text_prompt_length` null means
    `prompt_length` for both towers. Of a prefix, half the length is keys and half is values.
    """

    components_per_task: int = 8
    prompt_length: int = 8
    text_prompt_length: int | None = None
    prompt_depth: int = 5
    orthogonality_weight: float = 0.1
    entry: Literal["prefix", "prompt"] = "prompt"

    def __post_init__(self) -> None:
        check_at_least(1, self, "components_per_task", "prompt_length", "prompt_depth")
        check_at_least(1, self, "text_prompt_length")
        check_at_least(0, self, "orthogonality_weight")
        for name in ("prompt_length", "text_prompt_length"):
            length = getattr(self, name)
            if self.entry == "prefix" and length is not None and length % 2:
                raise ValueError(
                    f"{name}={length} must be even: half of a prefix is keys, half is values; "
                    "or set entry=prompt"
                )


class Components(nn.Module):
    """What one task adds to a tower: components (L, C, N, D), keys and attention (L, C, P)."""

    def __init__(self, component: Tensor, key: Tensor, attention: Tensor) -> None:
        super().__init__()
        self.component = nn.Parameter(component)
        self.key = nn.Parameter(key)
        self.attention = nn.Parameter(attention)


class CodaPrompt(Method):
    """C (Lv Nv Dv + Lt Nt Dt + 2 P (Lv + Lt)) numbers a task.

    With C = 8 (the paper's 100 components over 12 tasks), N = 8, L = 5 and ViT-B/16 (768, 512,
    P = 512): 491,520.
    """

    grows = True

    def __init__(self, config: CodaPromptConfig, setting: RetrievalSetting) -> None:
        super().__init__()
        self.config = config
        self.setting = setting
        self.shape: BackboneShape = setting.shape
        self.depths: dict[Modality, int] = {
            m: min(config.prompt_depth, self.shape.layers(m)) for m in MODALITIES
        }
        self.lengths = prompt_lengths(config.prompt_length, config.text_prompt_length)
        self.deep: Deep = "prefix" if config.entry == "prefix" else "replace"
        self.placeholders = 0 if config.entry == "prefix" else self.lengths["text"]
        require_room(self.shape, self.placeholders, f"prompts of length {self.placeholders}")
        self.tasks = nn.ModuleList()

    @override
    def begin_task(self, task: int, model: nn.Module) -> None:
        """New components, keys and attention vectors, each kind orthogonal to all older ones."""
        super().begin_task(task, model)
        draw = self.setting.task + len(self.tasks)  # of an object that goes on: the task
        generator = replace(self.setting, task=draw).generator()
        towers = nn.ModuleDict()
        for m in MODALITIES:
            length, width = self.lengths[m], self.shape.width(m)
            shape = (self.depths[m], self.config.components_per_task, length, width)
            features = self.shape.feature_width
            towers[m] = Components(
                self._new_rows(m, "component", length * width, generator).reshape(shape),
                self._new_rows(m, "key", features, generator),
                self._new_rows(m, "attention", features, generator),
            )
        self.tasks.append(towers)

    @override
    def task_parameters(self, task: int) -> dict[str, nn.Parameter]:
        """What a task added to both towers."""
        return dict(self.tasks[task].named_parameters())

    @override
    def encode(self, backbone: DualEncoder, modality: Modality, inputs: Tensor) -> Tensor:
        """Features under each sample's weighted sum of all components, whatever its task."""
        query = feature_query(backbone, modality, inputs, self.placeholders)
        weights = component_weights(
            query, self._all(modality, "attention"), self._all(modality, "key")
        )
        components = self._all(modality, "component")  # (L, M, N, D)
        prompts = torch.einsum("blm,lmnd->blnd", weights, components)
        features: Tensor = backbone(modality, inputs, prompts, self.deep)
        return features

    @override
    def regularisers(
        self, earlier: Sequence[Self] = (), similarity: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Orthogonality of components, keys and attention vectors of both towers."""
        weight = self.config.orthogonality_weight
        if not weight:
            return {}
        parts = [orthogonality(self._all(m, kind).flatten(2)) for m in MODALITIES for kind in KINDS]
        return {"orthogonality": weight * torch.stack(parts).sum()}

    def _all(self, modality: Modality, kind: Kind) -> Tensor:
        """One kind of a tower's parameters, of all tasks so far, (L, M, ...)."""
        towers = [task[modality] for task in self.tasks if isinstance(task, nn.ModuleDict)]
        return torch.cat([getattr(components, kind) for components in towers], dim=1)

    def _new_rows(
        self, modality: Modality, kind: Kind, width: int, generator: torch.Generator
    ) -> Tensor:
        """Initial rows (L, C, width) of one kind."""
        older = torch.zeros(self.depths[modality], 0, width)
        if self.tasks:
            older = self._all(modality, kind).detach().cpu().flatten(2)
        count = self.config.components_per_task
        return torch.stack([orthogonal_rows(layer, count, generator) for layer in older])


METHOD = MethodFactory(CodaPromptConfig, retrieval=CodaPrompt)

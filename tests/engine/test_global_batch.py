"""A step over the global batch against the plain gradient of the same loss in one graph."""

import pytest
import torch

from system.backbones.clip import load_clip
from system.backbones.dual_encoder import DualEncoder, Modality, unit
from system.engine.global_batch import PromptedEncoder, TokenBatch, accumulate_gradients
from system.engine.worker_group import WorkerGroup
from system.methods.base import RetrievalSetting
from system.methods.losses import contrastive_loss
from system.methods.low_rank import LowRankConfig
from system.methods.prompts.lpi import LowRankPrompts
from system.methods.sharing import MethodKind, StreamMethod, build_method
from tests.backbones.small_clip import IMAGE_SIZE, write_small_clip

BATCH = 8
ALONE = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    words = [f"w{i}" for i in range(30)]
    return load_clip(str(write_small_clip(tmp_path_factory.mktemp("clip"), words)))


def _method(backbone: DualEncoder) -> StreamMethod:
    section = {"name": "lpi", "prompt_length": 3}
    method = build_method(section, RetrievalSetting(backbone.shape, 0))
    method.begin_task(0, backbone)
    method.begin_task(1, backbone)
    return method


def _inputs(backbone: DualEncoder) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    ids = backbone.tokenize([f"w{i} w{2 * i}" for i in range(BATCH)], placeholders=3)
    return TokenBatch(images, ids)


def _plain_gradients(backbone: DualEncoder, similarity: torch.Tensor) -> dict[str, torch.Tensor]:
    """The slow twin: the whole batch in one graph, one backward pass."""
    method, batch = _method(backbone), _inputs(backbone)
    tasks = torch.ones(BATCH, dtype=torch.long)
    image = unit(method.encode(backbone, "vision", batch.images, tasks))
    text = unit(method.encode(backbone, "text", batch.input_ids, tasks))
    loss = contrastive_loss(backbone.logit_scale * image @ text.T)
    total = sum(method.regularisers(similarity).values(), loss)
    torch.autograd.backward(total)
    return {name: p.grad for name, p in method.task_parameters(1).items() if p.grad is not None}


@pytest.mark.parametrize("pieces", [1, 2, 4, 8])
def test_micro_batches_give_the_gradient_of_the_global_loss(
    backbone: DualEncoder, pieces: int
) -> None:
    """A loss that saw only its own micro-batch would learn from fewer negatives than asked for."""
    similarity = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    method, batch = _method(backbone), _inputs(backbone)
    parts = [
        TokenBatch(images, ids)
        for images, ids in zip(
            batch.images.chunk(pieces), batch.input_ids.chunk(pieces), strict=True
        )
    ]
    terms = accumulate_gradients(
        PromptedEncoder(method, backbone), parts, ALONE, backbone.logit_scale, similarity
    )
    assert set(terms) == {"contrastive", "layer_alignment", "task_contrast"}
    expected = _plain_gradients(backbone, similarity)
    assert set(expected) == set(method.task_parameters(1))
    for name, parameter in method.task_parameters(1).items():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in method.task_parameters(0).values())
    assert all(p.grad is None for p in backbone.parameters())


class _WithPull(LowRankPrompts):
    """Adds a loss term of each sample: the squared length of its feature."""

    def encode_training(
        self,
        backbone: DualEncoder,
        modality: Modality,
        inputs: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        features = self.encode(backbone, modality, inputs)
        return features, {"pull": 0.01 * features.pow(2).sum(dim=1)}


@pytest.mark.parametrize("pieces", [1, 4])
def test_loss_terms_of_samples_are_averaged_over_the_global_batch(
    backbone: DualEncoder, pieces: int
) -> None:
    """Or a prompt pool's pull would weigh more the more micro-batches there are."""
    setting = RetrievalSetting(backbone.shape, 0)
    kind = MethodKind("own", "task", grows=False)
    method = StreamMethod(kind, lambda _: _WithPull(LowRankConfig(prompt_length=3), setting))
    batch = _inputs(backbone)
    method.begin_task(0, backbone)
    tasks = torch.zeros(BATCH, dtype=torch.long)
    image, text = (
        method.encode(backbone, "vision", batch.images, tasks),
        method.encode(backbone, "text", batch.input_ids, tasks),
    )
    pull = 0.01 * (image.pow(2).sum(1).mean() + text.pow(2).sum(1).mean()) / 2
    loss = contrastive_loss(backbone.logit_scale * unit(image) @ unit(text).T)
    total = sum(method.regularisers(None).values(), loss + pull)
    parameters = method.task_parameters(0)
    expected = torch.autograd.grad(total, list(parameters.values()))
    parts = [
        TokenBatch(images, ids)
        for images, ids in zip(
            batch.images.chunk(pieces), batch.input_ids.chunk(pieces), strict=True
        )
    ]
    terms = accumulate_gradients(
        PromptedEncoder(method, backbone), parts, ALONE, backbone.logit_scale, None
    )
    assert float(terms["pull"]) == pytest.approx(float(pull.detach()), rel=1e-5)
    for parameter, gradient in zip(parameters.values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_the_pass_that_synchronises_adds_exactly_zero(backbone: DualEncoder) -> None:
    """DistributedDataParallel averages in that pass: anything but zero would change figures."""
    method = _method(backbone)
    encoder = PromptedEncoder(method, backbone)
    zero, _, _ = encoder(None)
    torch.autograd.backward(zero)
    for parameter in method.task_parameters(1).values():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_the_wrapped_module_holds_no_backbone(backbone: DualEncoder) -> None:
    """Else every task would send the backbone's weights to all workers."""
    encoder = PromptedEncoder(_method(backbone), backbone)
    own = {id(p) for p in backbone.parameters()}
    assert not own & {id(p) for p in encoder.parameters()}

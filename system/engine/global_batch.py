"""One optimisation step over the global batch, the same for any number of workers.

The contrastive loss sees the features of the whole batch. Each worker encodes its micro-batches,
the features are gathered, every worker computes the loss and its gradient with respect to all
features, and sends the part that belongs to it back through its own graphs. That is the gradient
of the global loss, for the memory of a worker's share.

Legend: S micro-batches in the global batch, b samples in each, B = S b, P feature width.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from system.backbones.dual_encoder import DualEncoder, unit
from system.engine.worker_group import WorkerGroup
from system.methods.losses import contrastive_loss
from system.methods.sharing import StreamMethod


@dataclass(frozen=True)
class TokenBatch:
    """One micro-batch on the device: images (b, 3, H, W) and token ids (b, T)."""

    images: Tensor
    input_ids: Tensor


#: Unit features (b, P) of images and of texts, and the mean of each loss term of samples.
Encoded = tuple[Tensor, Tensor, dict[str, Tensor]]


class PromptedEncoder(nn.Module):
    """What DistributedDataParallel wraps: the method's parameters, with the backbone beside them.

    The frozen backbone is no submodule, so that no worker ever sends it to another.
    """

    def __init__(self, method: StreamMethod, backbone: DualEncoder) -> None:
        super().__init__()
        self.method = method
        self._backbone = (backbone,)

    def forward(self, batch: TokenBatch | None) -> Encoded:
        """Encode a micro-batch; without one, zeros that touch all trainable parameters."""
        if batch is None:
            touched = sum(
                (p.sum() * 0.0 for p in self.method.parameters() if p.requires_grad),
                torch.zeros(()),
            )
            assert isinstance(touched, Tensor)
            return touched, touched, {}
        (backbone,) = self._backbone
        image, of_images = self.method.encode_training(backbone, "vision", batch.images)
        text, of_texts = self.method.encode_training(backbone, "text", batch.input_ids)
        terms = {
            name: torch.stack([part[name].mean() for part in (of_images, of_texts) if name in part])
            for name in {**of_images, **of_texts}
        }
        image, text = unit(image), unit(text)
        means = {name: term.mean() for name, term in terms.items()}
        return image, text, means | self.method.loss_terms(batch, {"vision": image, "text": text})


def accumulate_gradients(
    model: PromptedEncoder | DistributedDataParallel,
    batches: Sequence[TokenBatch],
    group: WorkerGroup,
    logit_scale: Tensor,
    similarity: Tensor | None,
    *,
    own_terms: bool = True,
) -> dict[str, Tensor]:
    """Gradients of the global loss in the method's parameters; the loss terms () by name.

    Without `own_terms` the loss is the contrastive one alone, whatever terms the method adds.

    Gradients add up in one fixed order (regularisers, then micro-batches in turn) and are averaged
    between workers at the end, by one pass through DistributedDataParallel that adds zero. With a
    power of two of workers and one micro-batch each, sums and results are the same to the bit as
    one worker's.
    """
    distributed = isinstance(model, DistributedDataParallel)
    module = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(module, PromptedEncoder)
    terms: dict[str, Tensor] = {}
    with model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext():
        if group.leads and own_terms:
            # The averaging divides by the number of workers, hence the factor.
            terms = module.method.regularisers(similarity)
            if terms:
                total = sum(terms.values(), torch.zeros((), device=group.device))
                torch.autograd.backward(total * group.size)
        encoded: list[Encoded] = [model(batch) for batch in batches]  # S / workers of them
        image, text = (
            group.gather_equal(
                torch.cat([(part[0], part[1])[side].detach() for part in encoded])
            ).requires_grad_()
            for side in (0, 1)
        )  # (B, P) each, in the order of the micro-batches
        loss = contrastive_loss(logit_scale * image @ text.T)
        image_grad, text_grad = torch.autograd.grad(loss, (image, text))
        size = len(batches[0].images)
        first = group.rank * len(batches)
        for index, (image_part, text_part, of_samples) in enumerate(encoded, start=first):
            rows = slice(index * size, (index + 1) * size)
            # Filled in on the device: a copy from the host would wait for it.
            share = torch.full((), 1 / len(batches), device=group.device)
            parts = [
                (image_part, image_grad[rows] * group.size),
                (text_part, text_grad[rows] * group.size),
                *((term, share.to(term.dtype)) for term in of_samples.values() if own_terms),
            ]
            # A method may train in one tower only.
            trained = [(part, gradient) for part, gradient in parts if part.requires_grad]
            torch.autograd.backward([p for p, _ in trained], [g for _, g in trained])
    if distributed:
        zero, _, _ = model(None)
        torch.autograd.backward(zero)
    values = {"contrastive": loss.detach()}
    values |= {name: term.detach() for name, term in terms.items()}
    return values | _means([of_samples for _, _, of_samples in encoded], group)


def _means(parts: Sequence[Mapping[str, Tensor]], group: WorkerGroup) -> dict[str, Tensor]:
    """The mean over all workers' micro-batches of each loss term of samples."""
    if not parts[0]:
        return {}
    mine = torch.stack([torch.stack([t.detach().float() for t in part.values()]) for part in parts])
    means = group.gather_equal(mine).mean(dim=0)
    return dict(zip(parts[0], means.unbind(), strict=True))

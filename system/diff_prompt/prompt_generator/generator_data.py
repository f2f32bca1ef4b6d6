"""The generator's data: latents and embeddings of all tasks' expressions, from their stores."""

from __future__ import annotations

import torch

from system.data.shards.split_objects import ReferredExpression
from system.diff_prompt.mask_vae.mask_decoder import MaskDecoder
from system.diff_prompt.mask_vae.mask_latents import mask_latents
from system.diff_prompt.prompt_generator.generator_plan import GeneratorPlan
from system.diff_prompt.prompt_generator.generator_training import GeneratorSamples
from system.engine.model_stage import Show
from system.engine.worker_group import WorkerGroup
from system.storage.data_directory import DataDirectory


class GeneratorData:
    """Reads a split's samples; each is computed by the first run that needs it."""

    def __init__(
        self, plan: GeneratorPlan, vae: MaskDecoder, group: WorkerGroup, show: Show
    ) -> None:
        self.plan = plan
        self.vae = vae
        self.group = group
        self.show = show
        self.encoder = plan.condition_encoder(group, show)

    def samples(self, split: str) -> tuple[GeneratorSamples, list[ReferredExpression]]:
        """All tasks' expressions, task by task; every rank has to call this."""
        latents, deviations, images, texts, places, all_expressions = [], [], [], [], [], []
        objects = rows = words = 0
        for task, expressions in self.plan.expressions(split).items():
            handle = self.plan.manifest.task(task).handle(split)
            encoded = mask_latents(
                handle,
                expressions,
                self.vae,
                self.group,
                DataDirectory.of(self.plan.experiment).store("latents"),
                self.show,
            )
            conditions = self.encoder.of(handle, expressions)
            places.append(
                torch.stack(
                    [
                        encoded.object_of + objects,
                        conditions.image_of + rows,
                        conditions.text_of + words,
                    ],
                    dim=1,
                )
            )
            latents.append(encoded.latents)
            if encoded.deviations is not None:
                deviations.append(encoded.deviations)
            images.append(conditions.images)
            texts.append(conditions.texts)
            all_expressions += expressions
            objects += len(encoded.latents)
            rows += len(conditions.images)
            words += len(conditions.texts)
        samples = GeneratorSamples(
            torch.cat(latents),
            torch.cat(images),
            torch.cat(texts),
            torch.cat(places),
            torch.cat(deviations) if deviations else None,
        )
        return samples, all_expressions

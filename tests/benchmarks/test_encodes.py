"""How often a test sample goes through a tower in the evaluations of a stream of twelve tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from system.backbones.clip import load_clip
from system.backbones.computation import Computation
from system.backbones.dual_encoder import MODALITIES, Modality
from system.data.shards.loading import read_texts
from system.data.shards.manifest import Manifest, SplitHandle
from system.engine.encoding import Encoder, Prompted
from system.engine.worker_group import WorkerGroup
from system.methods.base import RetrievalSetting
from system.methods.sharing import build_method
from system.objectives.retrieval.retrieval_evaluation import StreamEvaluation, TestSet
from system.storage.feature_store import FeatureStore
from system.storage.files import Folder
from system.stream.router import Router
from tests.backbones.small_clip import write_small_clip
from tests.benchmarks.conftest import Performance
from tests.data.coco_files import coco_source, prepare_coco, write_coco

TASKS, CONTEXT, BLOCK = 12, 77, 16
ALONE = WorkerGroup(rank=0, size=1, device=torch.device("cpu"))


@dataclass(frozen=True)
class CountingEncoder(Encoder):
    """Counts the samples and the text tokens that are asked for, not those that fill a block up."""

    count: Counter[str] = field(default_factory=Counter)

    def _encode(
        self,
        modality: Modality,
        batches: Iterator[tuple[Sequence[int], Tensor]],
        prompted: Prompted | None,
        prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs,
    ) -> Tensor:
        def counted() -> Iterator[tuple[Sequence[int], Tensor]]:
            for part, inputs in batches:
                self.count["encodes"] += len(part)
                if modality == "text":
                    self.count["tokens"] += len(part) * inputs.shape[1]
                    self.count["texts"] += len(part)
                yield part, inputs

        return super()._encode(modality, counted(), prompted, prepare)


@dataclass
class Stream:
    """Twelve tasks of images and captions, and the sizes of their test splits."""

    manifest: Manifest
    clip: str
    root: Path

    def evaluated(self, method: str, padding: str) -> tuple[Counter[str], int]:
        """What was encoded in all evaluations, and how many samples changed their routes."""
        backbone = load_clip(self.clip, Computation(text_padding=padding))  # type: ignore[arg-type]
        encoder = CountingEncoder(backbone, ALONE, BLOCK, threads=1)

        def open_test(task: int) -> SplitHandle:
            return self.manifest.tasks[task].handle("test")

        transform = backbone.image_transform()
        evaluation = StreamEvaluation(
            TestSet.read(open_test, TASKS), encoder, transform, "all", open_test
        )
        store = FeatureStore(Folder.of(self.root / f"features-{method}-{padding}"))
        evaluation.prepare(store, encoder.feature_key(evaluation.tests.handles))
        section = {"name": method, "prompt_length": 2}
        learned = build_method(section, RetrievalSetting(backbone.shape, 0))
        router, changes = Router(centers_per_task=2, seed=0), 0
        training = Encoder(backbone, ALONE, BLOCK, threads=1)
        for task in range(TASKS):
            handle = self.manifest.tasks[task].handle("train")
            learned.begin_task(task, backbone)
            router.add_task(
                task,
                training.images(handle, range(handle.rows), transform, None),
                training.texts([text for row in read_texts(handle) for text in row], None),
            )
            before = {m: evaluation.encoded_for[m].clone() for m in MODALITIES}
            evaluation.after_task(task, learned, router if learned.needs_router else None)
            if task:
                now = evaluation.encoded_for
                changes += sum(int((before[m] != now[m]).sum()) for m in MODALITIES)
        return encoder.count, changes


@pytest.mark.benchmark
def test_encodes_of_a_stream_of_twelve_tasks(tmp_path: Path, performance: Performance) -> None:
    tasks = [f"task{index}" for index in range(TASKS)]
    write_coco(tmp_path / "coco", {"train": 4, "test": 6}, tasks)
    manifest = prepare_coco(
        coco_source(tmp_path / "coco", ("train", "test"), tasks), str(tmp_path / "shards")
    )
    words = [str(i) for i in range(400)]
    clip = write_small_clip(tmp_path / "clip", words, context=CONTEXT)
    stream = Stream(manifest, str(clip), tmp_path)
    tests = TestSet.read(lambda task: manifest.tasks[task].handle("test"), TASKS)
    samples = len(tests.image_task) + len(tests.captions)
    rows = [
        (
            "every sample after every task, as the release does",
            f"{(TASKS + 1) * samples:,}",
            f"{TASKS + 1}",
            f"{CONTEXT}",
        )
    ]
    for name, method in (("ours, routed (LPI)", "lpi"), ("ours, no router (LwF)", "lwf")):
        count, changes = stream.evaluated(method, "longest")
        rows.append(
            (
                f"{name}; {changes:,} samples changed their prompts",
                f"{count['encodes']:,}",
                f"{count['encodes'] / samples:.2f}",
                f"{count['tokens'] / count['texts']:.1f}",
            )
        )
        # Once unprompted, once after the first task, and again at each change alone.
        assert count["encodes"] == 2 * samples + changes
        if method == "lwf":  # one prompt for all, and another one after each task
            assert changes == (TASKS - 1) * samples
    context, _ = stream.evaluated("lpi", "context")
    assert context["tokens"] == CONTEXT * context["texts"]
    performance.table(
        f"Encodes in the evaluations of a stream of {TASKS} tasks, {samples:,} test samples",
        ("way", "encodes", "per sample", "tokens per text"),
        rows,
        "The unprompted pass of the zero-shot row included. Without a router all samples get the "
        "last task's prompts, so that all are encoded again after each task: nothing spares it.",
    )

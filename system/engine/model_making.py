"""One maker a model: runs and trials that need the same one do not train it side by side."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from system.engine.model_stage import ModelExperiment, ModelStage, Tell
from system.storage.writer_lock import interrupt_main, sole_writer


@contextmanager
def sole_maker(
    experiment: ModelExperiment,
    stage: ModelStage,
    tell: Tell,
    on_lost: Callable[[], None] = interrupt_main,
) -> Iterator[bool]:
    """Wait for whoever makes the same model now, and keep others waiting inside the block.

    Yields whether the model is there by then. A maker that died is no longer waited for. `on_lost`
    is that of `sole_writer`, on whose lock this rests.
    """
    place = stage.place(experiment)

    def waiting(who: str) -> None:
        tell(f"waiting for {who}, which trains the same model: {place.uri}")

    with sole_writer(place, on_lost, waiting=waiting):
        yield stage.finished(experiment)

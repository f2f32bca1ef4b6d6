"""A finished alignment on disk: its figures as JSON, what it learned as an adapter."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from system.storage.adapters import read_header
from system.storage.files import Folder

RESULT = "alignment.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Example:
    """One expression of the first split with the best boxes before and after, in shares."""

    task: str
    row: int
    text: str
    true: tuple[float, ...]
    before: tuple[float, ...] | None  # None: no box was found
    after: tuple[float, ...] | None


@dataclass(frozen=True)
class AlignmentResult:
    """All figures of an alignment; those of splits as `SplitRecalls.to_json` gives them."""

    digest: str
    method: dict[str, Any]
    grounder: str
    grounder_fingerprint: str
    transform: str
    benchmark: str
    benchmark_fingerprint: str
    seed: int
    tasks: tuple[str, ...]
    stage: dict[str, Any]
    train_expressions: int
    trainable_parameters: int
    zero_shot: dict[str, Any]  # split -> figures of the frozen grounder
    trained: dict[str, Any]  # the same after training
    undefined: dict[str, str]  # path of a figure -> why there is none
    examples: tuple[Example, ...]
    log: tuple[dict[str, Any], ...]
    wall_seconds: dict[str, float]
    denoising_steps: int  # run by rank 0, each for one sample; 0 without a prompt generator
    format_version: int = FORMAT_VERSION


def save_result(folder: Folder, result: AlignmentResult) -> None:
    """Write the result; it makes the folder a finished one, so it comes last."""
    folder.write_json(RESULT, asdict(result))


def load_result(folder: Folder) -> AlignmentResult:
    """The result of a folder. Raises StorageError if there is none."""
    return read_header(
        folder,
        RESULT,
        AlignmentResult,
        FORMAT_VERSION,
        absent="train it with `promptide run` and stage=alignment first",
        foreign="result of an alignment; delete it to train again",
    )

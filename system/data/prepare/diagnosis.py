"""What a benchmark's preparation needs, and what of it is there: the subject of `doctor`."""

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from system.data.prepare.dataset import DATASETS
from system.data.prepare.needed_files import NEEDS, NeededFile
from system.data.prepare.origin import ROOT, Origin, prepared_at
from system.data.prepare.shard_writer import ROW_GROUP_ROWS
from system.data.shards.manifest import Manifest
from system.storage.files import Folder, is_local
from system.uris import absolute

PREPARE_MEMORY = 400_000_000  # bytes, flat: `make bench` measures it at 2,000 and 20,000 images

State = Literal["there", "missing", "incomplete", "empty"]


@dataclass(frozen=True)
class Finding:
    """A needed file or folder as it was found: how many files and bytes it has.

    `expected` is how many there are to be, None where nobody says.
    """

    needed: NeededFile
    options: tuple[str, ...]  # all that name it
    path: str
    state: State
    files: int
    size: int
    expected: int | None


@dataclass(frozen=True)
class Room:
    """Room of one kind, in bytes: what is needed (None: unknown) and what is free (None: too)."""

    what: str
    needed: int | None
    free: int | None

    @property
    def lacking(self) -> bool:
        """Whether there is less than needed."""
        return self.needed is not None and self.free is not None and self.free < self.needed


@dataclass(frozen=True)
class Diagnosis:
    """What was found of a benchmark. `findings` is None for a data set that lists no files.

    `differing` are options that it was prepared with otherwise: {option: (then, now)}.
    """

    findings: tuple[Finding, ...] | None
    rooms: tuple[Room, ...]
    manifest: Manifest | None
    differing: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def prepared(self) -> bool:
        """Whether task shards of these options are there, so that no file is needed any more."""
        return self.manifest is not None and not self.differing

    @property
    def missing(self) -> tuple[Finding, ...]:
        """The files and folders that are not there, or not whole."""
        return tuple(found for found in self.findings or () if found.state != "there")


def examine(
    dataset: str,
    options: Mapping[str, Any],
    folder: Folder,
    training: Mapping[str, Any],
    given: Collection[str] | None = None,
) -> Diagnosis:
    """Look for what a benchmark needs; nothing is opened but the manifest in `folder`.

    `training` are the composed values of a run, for the memory that it takes. `given` are prefixes
    of the options that somebody wrote (None: all); for others a run takes what was prepared.
    Raises: ConfigError for options that the data set does not know, DataError for a manifest that
    is damaged.
    """
    manifest = prepared_at(folder)
    recorded = None if manifest is None else Origin.recorded(manifest)
    differing = {} if recorded is None else _differing(dataset, options, recorded, given)
    if recorded is not None and recorded.whole and not differing:
        options = recorded.options
    findings = _findings(dataset, options)
    return Diagnosis(
        findings, _rooms(findings or (), folder, manifest, training), manifest, differing
    )


def _differing(
    dataset: str,
    options: Mapping[str, Any],
    recorded: Origin,
    given: Collection[str] | None,
) -> dict[str, tuple[Any, Any]]:
    origin = Origin.of(dataset, options)
    root, place = recorded.options.get(ROOT), origin.options.get(ROOT)
    found = {
        f"benchmark.options.{key}": values
        for key, values in origin.options_differing(recorded, given).items()
    }
    if place is not None and place != root:
        found = {f"benchmark.options.{ROOT}": (root, place), **found}
    if recorded.whole and dataset != recorded.dataset:
        found = {"benchmark.dataset": (recorded.dataset, dataset), **found}
    return found


def _findings(dataset: str, options: Mapping[str, Any]) -> tuple[Finding, ...] | None:
    if dataset not in NEEDS:
        if dataset not in DATASETS:
            DATASETS.get(dataset)  # which says what there is
        return None
    root = options.get("root")
    listed = NEEDS.get(dataset)(options if root else {**options, "root": ""})
    if listed is None:
        return None
    found: dict[str, Finding] = {}
    for needed in listed:
        known = found.get(needed.path)
        if known is None:
            place = Path(absolute(str(root))) if root else None
            found[needed.path] = _look(needed, place)
        else:
            found[needed.path] = replace(known, options=(*known.options, needed.option))
    return tuple(found.values())


def _look(needed: NeededFile, root: Path | None) -> Finding:
    expected = needed.archive.files if needed.archive is not None else None
    if needed.parts:
        expected = len(needed.parts)
    if root is None:
        return Finding(needed, (needed.option,), needed.path, "missing", 0, 0, expected)
    sizes = [_size(root / part) for part in needed.parts or (needed.path,)]
    files, size = (sum(numbers) for numbers in zip(*sizes, strict=True))
    path = root / needed.path
    state: State = "there"
    if not files:
        state = "empty" if path.is_dir() else "missing"
    elif expected is not None and files < expected:
        state = "incomplete"
    return Finding(needed, (needed.option,), str(path), state, files, size, expected)


def _size(path: Path) -> tuple[int, int]:
    """Count files and bytes of a file, or of a folder's files at any depth."""
    if path.is_file():
        return 1, path.stat().st_size
    files = size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                size += os.stat(os.path.join(folder, name)).st_size
                files += 1
            except OSError:  # a link to nowhere is no file
                continue
    return files, size


def _rooms(
    findings: Sequence[Finding],
    folder: Folder,
    manifest: Manifest | None,
    training: Mapping[str, Any],
) -> tuple[Room, ...]:
    images = _bytes(findings, images=True)
    rooms: list[Room] = []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if manifest is None and findings:
        free = _free(folder.path) if is_local(folder.filesystem) else None
        rooms.append(Room("disk for task shards, in data_path", images, free))
        temporary = _bytes(findings, images=False)
        rooms.append(
            Room("disk for temporary files, in TMPDIR", temporary, _free(tempfile.gettempdir()))
        )
    if manifest is None:
        rooms.append(Room("memory to prepare", PREPARE_MEMORY, memory))
    rooms.append(Room("memory of a run, per worker", _run_memory(findings, training), memory))
    return tuple(rooms)


def _bytes(findings: Sequence[Finding], *, images: bool) -> int | None:
    """Bytes of what is there, and of images also the published size of what is not.

    None if there is something else, whose size nobody says, or nothing of the kind. Images shrink
    little in an archive, annotations do.
    """
    total = 0
    of_kind = [found for found in findings if found.needed.images == images]
    for found in of_kind:
        archive = found.needed.archive
        if found.state == "there":
            total += found.size
        elif images and archive is not None and archive.size is not None:
            total += archive.size
        else:
            return None
    return total if of_kind else None


def _free(path: str) -> int:
    place = Path(path)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _run_memory(findings: Sequence[Finding], training: Mapping[str, Any]) -> int | None:
    """The frozen model's weights, and the encoded images that are held while they are shuffled.

    Libraries and activations come on top, which depend on the machine and the model.
    """
    stage = training.get("stage") or {}
    held = stage.get("shuffle_buffer")
    files = sum(found.files for found in findings if found.needed.images)
    size = sum(found.size for found in findings if found.needed.images)
    model = training.get("grounder") if stage.get("objective") == "grounding" else None
    model = model or training.get("backbone") or {}
    weights = [path.stat().st_size for path in Path(str(model.get("path"))).glob("*.safetensors")]
    if not (held and files and weights):
        return None
    pieces = stage.get("micro_batches")
    each = pieces if isinstance(pieces, int) else 1  # auto: one per worker
    rows = held + ROW_GROUP_ROWS * each
    return int(sum(weights) + min(rows, files) * size // files)

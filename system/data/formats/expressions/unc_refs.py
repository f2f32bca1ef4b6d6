"""Reader of the UNC release of RefCOCO, RefCOCO+ and RefCOCOg: `refs(...).p` and instances.json.

Source: https://github.com/lichengunc/refer. The pickle is a list of {ref_id, ann_id, image_id,
category_id, split, file_name, sent_ids, sentences: [{sent_id, sent, raw, tokens}]}. Its `file_name`
contains an annotation's number; an image's own name is in instances.json.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from system.data.formats.coco_entries import entry_with_id, unique_id
from system.data.formats.expressions.plain_pickle import load_plain_pickle
from system.data.formats.expressions.referred_objects import (
    ObjectTable,
    Published,
    ReferredObject,
    ReferredObjects,
)
from system.data.prepare.annotations import Entry
from system.data.shards.faults import Faults
from system.errors import ConfigError, DataError


class UncRelease:
    """A release's references by the release's own splits, and the objects they refer to."""

    def __init__(
        self,
        folder: Path,
        split_by: str,
        instances: Path,
        faults: Faults,
        tasks: Mapping[str, str] | None = None,
    ) -> None:
        """Read `refs(<split_by>).p` in `folder`, and the instances file.

        `tasks` are those of references by their ids; the others are left out. None: of none.
        Raises: DataError for a missing or malicious file, a duplicated id, tasks of references that
        the release has not or, through `faults`, an entry without an id or a split.
        """
        self._tasks = tasks
        self._path = folder / f"refs({split_by}).p"
        if not self._path.is_file():
            found = ", ".join(path.name for path in sorted(folder.glob("refs(*).p"))) or "none"
            raise DataError(
                f"benchmark.options.split_by: the file {self._path} does not exist (of its kind "
                f"are there: {found}): correct this field or fetch the release"
            )
        self._refs = _read_refs(self._path, "benchmark.options.split_by", faults)
        self._require_known()
        wanted = {
            identifier
            for refs in self._refs.values()
            for entry in refs
            if (identifier := entry.readable_id("ann_id")) is not None
        }
        self._objects = ObjectTable(instances, "benchmark.options.instances", wanted, faults)

    def objects(self, split: str, theirs: Sequence[str], faults: Faults) -> ReferredObjects:
        """Collect the objects of `theirs`, the release's splits that make up our `split`.

        Raises: ConfigError for a split that the release does not have; DataError for a broken
        reference, unless it is quarantined.
        """
        objects = ReferredObjects()
        for name in theirs:
            if name not in self._refs:
                raise ConfigError(
                    f"benchmark.options.splits.{split}: {self._path} has no split {name!r}, only "
                    f"{', '.join(self._refs)}"
                )
            for entry in self._refs[name]:
                if self._tasks is not None and entry.readable_id("ref_id") not in self._tasks:
                    continue
                with faults.row(split, f"ref {entry.identifier('ref_id')}"):
                    objects.add(self._referred(entry))
        return objects

    def _require_known(self) -> None:
        known = {entry.readable_id("ref_id") for refs in self._refs.values() for entry in refs}
        unknown = [ref for ref in self._tasks or () if ref not in known]
        if unknown:
            raise DataError(
                f"benchmark.options.task_of_ref: {len(unknown)} of its references (the first is "
                f"{unknown[0]}) are not in {self._path}: do the two files belong together?"
            )

    def _referred(self, entry: Entry) -> ReferredObject:
        image_id, identifier = entry.identifier("image_id"), entry.identifier("ann_id")
        image = self._objects.image(image_id, entry.where)
        annotation = self._objects.find(identifier, image_id, entry.where)
        category = entry.identifier("category_id")
        if annotation.identifier("category_id") != category:
            raise DataError(
                f"{entry.where}: field 'category_id' {category} is not that of {annotation.where}",
                "unknown category",
            )
        expressions = [
            Published(sentence.get("sent", str), sentence.where)
            for sentence in entry.entries("sentences")
        ]
        if not expressions:
            raise DataError(f"{entry.where}: field 'sentences' is empty", "empty text")
        instance = self._objects.instance(annotation, image)
        task = None if self._tasks is None else self._tasks[entry.identifier("ref_id")]
        return ReferredObject(identifier, image, instance, expressions, task)


def _read_refs(path: Path, field: str, faults: Faults) -> dict[str, list[Entry]]:
    content = load_plain_pickle(path, field)
    if not isinstance(content, list):
        raise DataError(f"{path}: is not a list of references: fetch the release again")
    refs: dict[str, list[Entry]] = {}
    ids: set[str] = set()
    for number, fields in enumerate(content):
        where = f"{path}: refs[{number}]"
        entry = entry_with_id(fields, where, "ref_id", "unknown", faults)
        if entry is None:
            continue
        ids.add(unique_id(entry, "ref_id", ids))
        with faults.row("unknown", where):
            refs.setdefault(entry.get("split", str), []).append(entry)
    return refs


def unc_image_ids(path: Path, field: str) -> dict[str, set[str]]:
    """Read which images each split of a `refs(...).p` uses: {split: image ids}.

    `field` is the config field that names the file.

    Raises: DataError as `UncRelease`.
    """
    return {
        split: {entry.identifier("image_id") for entry in refs}
        for split, refs in _read_refs(path, field, Faults("stop")).items()
    }

"""Data under a name that is prepared already: other data, or the same in another place."""

from collections.abc import Mapping
from dataclasses import replace

from system.data.prepare.dataset import Progress
from system.data.prepare.origin import ROOT, Origin, other_source, prepared_at
from system.data.prepare.shard_writer import default_threads
from system.data.prepare.split_index import SplitIndex
from system.data.prepare.split_writer import add_contents, content_of
from system.data.shards.manifest import Manifest
from system.data.shards.parallel import bounded_map
from system.errors import DataError
from system.storage.data_directory import SETTING
from system.storage.files import Folder


def refuse_other_origin(origin: Origin, benchmark: str, output: str) -> None:
    """Refuse to write over a benchmark of another dataset or of other options.

    Raises: ConfigError with both values and the ways out.
    """
    there = prepared_at(Folder.of(output, SETTING))
    if there is not None:
        origin.require_same(Origin.recorded(there), benchmark, output)


def moved_data(
    splits: Mapping[str, SplitIndex],
    origin: Origin,
    benchmark: str,
    output: str,
    progress: Progress | None,
) -> Manifest | None:
    """Return the manifest that is there, if the same data lie under another root now.

    None if nothing is there, or it is from the same root. Raises: ConfigError for other data.
    """
    there = prepared_at(Folder.of(output, SETTING))
    if there is None:
        return None
    recorded = Origin.recorded(there)
    old, new = recorded.options.get(ROOT), origin.options.get(ROOT)
    if old == new or old is None or new is None:  # made here, or in the same place
        return None
    found = {split: f"{_content(index, progress):064x}" for split, index in splits.items()}
    if found != there.source.get("content"):
        difference = f"other data in benchmark.options.root={new!r} (prepared from {old!r})"
        raise other_source(benchmark, output, difference)
    manifest = replace(there, source={**there.source, **origin.to_source()})
    manifest.save(output)
    return manifest


def _content(index: SplitIndex, progress: Progress | None) -> int:
    """Digest a split's rows as `write_split` does, without decoding or writing anything."""

    def content(place: int) -> int:
        try:
            return content_of(index.load(place))
        except DataError:
            return 0  # as the writer has it for an image that cannot be read

    total = 0
    contents = bounded_map(content, range(len(index)), threads=default_threads())
    for done, one in enumerate(contents, 1):
        total = add_contents(total, one)
        if progress is not None:
            progress(f"{index.split}: comparing", done, len(index))
    return total

"""Origin of a prepared benchmark: the dataset and the options that its shards were made from."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from system.config.differences import differences, plain
from system.data.shards.manifest import MANIFEST_NAME, Manifest
from system.errors import ConfigError, DataError
from system.storage.files import Folder
from system.uris import absolute

ROOT = "root"  # says only where the files lie: compared by their content
_NO_SOURCE = (ROOT, "on_error")  # the latter says what to do with broken rows, whose list is kept
_EARLIER = (ROOT, "caption_rule")  # options that manifests of earlier versions name
_KEY = "origin"  # in a manifest's source


@dataclass(frozen=True)
class Origin:
    """A dataset's name in the registry, and its options as plain values."""

    dataset: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, dataset: str, options: Mapping[str, Any]) -> "Origin":
        """Make the origin of a benchmark config; its root becomes absolute."""
        values = plain(options)
        if isinstance(values.get(ROOT), str):
            values[ROOT] = absolute(values[ROOT])
        return cls(dataset, values)

    @classmethod
    def recorded(cls, manifest: Manifest) -> "Origin":
        """Read what a manifest says of its origin.

        One of an earlier version names no dataset and few of the options.
        """
        found = manifest.source.get(_KEY)
        if isinstance(found, Mapping):
            return cls(str(found["dataset"]), dict(found["options"]))
        return cls("", {key: manifest.source[key] for key in _EARLIER if key in manifest.source})

    @property
    def whole(self) -> bool:
        """Whether it names all options, as those of earlier versions do not."""
        return bool(self.dataset)

    def to_source(self) -> dict[str, object]:
        """Return the part of a manifest's source that `recorded` reads."""
        return {_KEY: {"dataset": self.dataset, "options": dict(self.options)}}

    def options_differing(
        self, recorded: "Origin", given: Collection[str] | None = None
    ) -> dict[str, tuple[Any, Any]]:
        """Return {option: (recorded value, this one's)}, the root and `on_error` aside.

        Of options with the prefixes `given` alone, or of all; one that an earlier version did not
        record, and nobody gave, is passed over.
        """
        found = differences(recorded.options, self.options)
        known = recorded.options if recorded.whole else recorded.options.keys() & self.options
        return {
            key: values
            for key, values in found.items()
            if key not in _NO_SOURCE
            and (key.split(".")[0] in known if given is None else _under(key, given))
        }

    def require_same(
        self, recorded: "Origin", benchmark: str, place: str, given: Collection[str] | None = None
    ) -> None:
        """Refuse a benchmark that was prepared from another dataset or with other options.

        Raises: ConfigError with both values and the ways out.
        """
        wrong = [
            f"benchmark.options.{key}={new!r} (prepared with {old!r})"
            for key, (old, new) in self.options_differing(recorded, given).items()
        ]
        if recorded.whole and self.dataset != recorded.dataset:
            wrong.insert(0, f"benchmark.dataset={self.dataset} (prepared as {recorded.dataset})")
        if wrong:
            raise other_source(benchmark, place, "; ".join(wrong))


def other_source(benchmark: str, place: str, difference: str) -> ConfigError:
    """Say that a benchmark of this name was prepared from something else, and what to do."""
    return ConfigError(
        f"benchmark {benchmark!r} in {place} was prepared from another source: {difference}. Give "
        "this one a name of its own (benchmark.name=NAME), leave these options out to use what is "
        "prepared, or replace that by `promptide prepare ... --replace`"
    )


def prepared_at(folder: Folder) -> Manifest | None:
    """Load the manifest of the benchmark in a folder, None if none is prepared there.

    Raises: DataError for a manifest that is damaged.
    """
    return Manifest.load(folder.uri) if folder.exists(MANIFEST_NAME) else None


def require_origin(
    manifest: Manifest, dataset: str, options: Mapping[str, Any], place: str
) -> None:
    """Check that a run's benchmark config is what the benchmark was prepared from.

    Raises: ConfigError as `Origin.require_same` does.
    """
    recorded = Origin.recorded(manifest)
    Origin.of(dataset, options).require_same(recorded, manifest.benchmark, place)


def require_root(benchmark: str, options: Mapping[str, Any], place: str) -> None:
    """Refuse to prepare a benchmark whose files' place nobody gave.

    Raises: DataError saying how to give it.
    """
    if ROOT in options and options[ROOT] is None:
        raise DataError(
            f"benchmark {benchmark!r} is not prepared in {place}, and benchmark.options.root is "
            "not set: set it to the folder that holds the data set's files"
        )


def _under(key: str, prefixes: Collection[str]) -> bool:
    return any(not prefix or f"{key}.".startswith(f"{prefix}.") for prefix in prefixes)

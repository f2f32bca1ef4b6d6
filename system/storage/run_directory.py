"""The directory of one run: its files, and the rules for coming back to it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
from omegaconf import OmegaConf

from system.config.differences import differences, plain
from system.config.precision import AUTO, stored_precision
from system.errors import BrokenStorageError, ConfigError, DataError
from system.storage.files import Folder
from system.storage.foreign_yaml import parse_yaml
from system.storage.seal import DamagedError, check_yaml, yaml_file

CONFIG = "config.yaml"
METRICS = "metrics.json"
MODEL_LOG = "training_log"  # in a model's metrics.json: one row an epoch
ACCURACY_MATRIX = "accuracy_matrix.parquet"
ACCESS_LOG = "access_log.parquet"
TRAINING_LOG = "training_log.parquet"
EXAMPLES = "examples.parquet"
BOX_EXAMPLES = "box_examples.parquet"  # instead of the former where boxes are learned
TASK_SIMILARITY = "task_similarity.parquet"  # of many tasks; of few it is in metrics.json
RANKS = "ranks.parquet"  # what each test query found, for anyone's own metric
CONTENTS = "contents.json"  # digests of what lies at the places that config.yaml names
OUTCOME = "outcome.json"  # what only the workers can tell at the end
REPORT = "report.html"
SWEEP = "sweep.json"  # tells a sweep's directory from a run's
CLUSTER = "cluster.json"  # where the run's Ray answers, while a driver runs

#: Sections that may change between two starts of the same run without changing its results.
FREE_SECTIONS = ("cluster", "storage_path", "data_path", "cache_path", "loggers")
#: Keys of the same kind. Under small_tasks "stop" a run that "shrink" would change does not begin.
FREE_KEYS = ("stage.small_tasks", "stage.check_every")
PRECISION = ".precision"  # how the keys of frozen models' arithmetic end
MICRO_BATCHES = "stage.micro_batches"  # under auto those that the run began with

#: Of `ACCURACY_MATRIX`: one row per entry.
MATRIX_SCHEMA = pa.schema(
    [
        ("trained_index", pa.int32()),
        ("trained_task", pa.string()),  # null before any task
        ("evaluated_index", pa.int32()),
        ("evaluated_task", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),  # percent; NaN if undefined
        ("reason", pa.string()),  # why it is undefined, else null
        ("queries", pa.int32()),
        ("held_out", pa.string()),  # the benchmark of a row that is no task's, else null
    ]
)
#: Of `TASK_SIMILARITY`: one row per pair, when the later task was learned, and one per task itself.
SIMILARITY_SCHEMA = pa.schema(
    [
        ("task_index", pa.int32()),
        ("other_index", pa.int32()),  # at most task_index
        ("similarity", pa.float32()),
        ("attracts", pa.bool_()),  # in the task contrast; null: not known, or no pair
    ]
)
_NEWER = ("held_out",)  # columns that tables of earlier versions lack


#: Of `RANKS`: one row a query and phase. An objective's own columns come behind these.
RANK_COLUMNS = (
    ("phase", pa.string()),  # "zero_shot": the frozen model; "after": once all tasks are learned
    ("direction", pa.string()),  # "t2i": a text searches images, "i2t": the reverse, "rec": boxes
    ("task_index", pa.int32()),  # the stream's task that the query counts in
    ("task", pa.string()),  # its name; of joined tasks the single one's
    ("split", pa.string()),
    ("query", pa.int32()),  # number within task, split and direction
    ("row", pa.int32()),  # of the query's image within its task's split
    ("image_id", pa.string()),  # of that image
    ("text", pa.string()),  # of a query that is a text, else null
    ("rank", pa.int32()),  # of the best right candidate, from 1; null: none was found
)


class RunConfig(Protocol):
    """The part of a run's config that its directory needs."""

    @property
    def storage_path(self) -> str:
        """Where runs are kept."""
        ...

    @property
    def run_name(self) -> str:
        """A plain folder name."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """All of it, as plain values."""
        ...

    def completed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values of an earlier version's config, with the defaults of what they lack."""
        ...


@dataclass(frozen=True)
class RunDirectory:
    """`<storage_path>/<run name>/`."""

    folder: Folder

    @classmethod
    def of(cls, experiment: RunConfig) -> "RunDirectory":
        """The directory of an experiment's run."""
        return cls(Folder.of(experiment.storage_path).child(experiment.run_name))

    @property
    def adapters(self) -> Folder:
        """The learned prompts."""
        return self.folder.child("adapters")

    @property
    def stream(self) -> Folder:
        """The journal of the task stream."""
        return self.folder.child("stream")

    def evaluation(self, benchmark: str, splits: Iterable[str]) -> Folder:
        """What `promptide evaluate` found on these splits of a benchmark."""
        return self.folder.child("evaluations").child("-".join((benchmark, *splits)))

    @property
    def logs(self) -> Folder:
        """One log file per rank and start."""
        return self.folder.child("logs")

    @property
    def begun(self) -> bool:
        """Whether a run has claimed it."""
        return self.folder.exists(CONFIG)

    def claim(self, experiment: RunConfig, contents: Mapping[str, str]) -> bool:
        """Write `config.yaml`, or check that the run there is the same one.

        `contents` are digests of what lies at the places that the config names, by dotted key (see
        `system.engine.contents`): a place may change where its content is the same, and must not
        hold other content. Returns whether the run was begun before. Raises ConfigError naming the
        keys in which the two differ, or for a sweep's directory, StorageError if the storage cannot
        be written and read back.
        """
        Folder.of(experiment.storage_path).probe()
        if self.folder.exists(SWEEP):
            raise ConfigError(
                f"run_name={experiment.run_name!r} is a sweep in {experiment.storage_path}; give "
                "this run another run_name, or go on with it by `promptide sweep`"
            )
        values = experiment.to_dict()
        if not self.begun and self._learned:
            raise self.folder.missing(CONFIG)
        if not self.begun:
            self.folder.write_json(CONTENTS, dict(contents))
            self.folder.write(CONFIG, yaml_file(OmegaConf.to_yaml(plain(values))))
            return False
        found = self.config()
        earlier = plain(experiment.completed(found))
        held = self.folder.read_json(CONTENTS) if self.folder.exists(CONTENTS) else {}
        differing = [
            f"{key}={new!r} (was {old!r})"
            for key, (old, new) in differences(earlier, plain(values)).items()
            if key.split(".")[0] not in FREE_SECTIONS
            and key not in FREE_KEYS
            and not (key.endswith(PRECISION) and _same_precision(old, new, found, values))
            and not (key == MICRO_BATCHES and (new == AUTO or new == micro_batches_of(found)))
            and not (key in held and held[key] == contents.get(key))
        ]
        differing += [
            f"{key} holds other content than when the run began"
            for key, digest in contents.items()
            if held.get(key, digest) != digest
        ]
        if differing:
            raise ConfigError(
                f"run_name={experiment.run_name!r} exists in {experiment.storage_path} with "
                f"another config: {'; '.join(differing)}. Give this run another run_name, or the "
                "old values to go on with that one"
            )
        return True

    def require_journal(self) -> None:
        """Raises BrokenStorageError where tasks were learned and no record is left of them."""
        if self._learned and not self.stream.names():
            raise BrokenStorageError(
                f"{self.stream.location} holds no record, though {self.adapters.location} holds "
                "learned tasks: restore it from a copy, or learn under another run_name"
            )

    @property
    def _learned(self) -> bool:
        return any(name.startswith("task-") for name in self.adapters.names())

    def cluster(self) -> dict[str, str]:
        """Where the driver's Ray answers: "address" and "auth"; empty if no driver has begun."""
        if not self.folder.exists(CLUSTER):
            return {}
        found: dict[str, str] = self.folder.read_json(CLUSTER)
        return found

    def config(self) -> dict[str, Any]:
        """The resolved config of the run. Raises BrokenStorageError if it is damaged."""
        data, file = self.folder.read(CONFIG), self.folder.file_uri(CONFIG)
        try:
            check_yaml(data)
            values = parse_yaml(data)
        except ValueError as error:
            raise self.folder.damaged(CONFIG, f"it is not YAML: {error}") from error
        except DamagedError as error:
            raise self.folder.damaged(CONFIG, error) from error
        if not isinstance(values, dict) or not values:
            raise BrokenStorageError(f"{file} holds no config; give this run another run_name")
        return {str(key): value for key, value in values.items()}


def _same_precision(
    old: object, new: object, earlier: Mapping[str, Any], now: Mapping[str, Any]
) -> bool:
    """Whether two precisions are one, as far as this machine knows what an auto comes to.

    What a run of a stream did come to stands in its adapters' header, which its workers read.
    """
    return (stored_precision(earlier) if old == AUTO else old) == (
        stored_precision(now) if new == AUTO else new
    )


def micro_batches_of(config: Mapping[str, Any]) -> int:
    """How many micro-batches a stream's config.yaml stands for: under auto one per worker."""
    pieces = config["stage"]["micro_batches"]
    return max(config["cluster"]["workers"], 1) if pieces == AUTO else int(pieces)


def matrix_tables(columns: Iterable[Mapping[str, Any]]) -> Iterator[pa.Table]:
    """Tables of `MATRIX_SCHEMA`, from the columns of an `AccuracyMatrix`, one a chunk."""
    for chunk in columns:
        arrays = []
        for field in MATRIX_SCHEMA:
            values = chunk[field.name]
            if field.type == pa.string():
                codes, names = values
                codes = pa.array(codes, mask=codes < 0)
                coded = pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))
                arrays.append(coded.cast(pa.string()))
            else:
                arrays.append(pa.array(values, field.type))
        yield pa.Table.from_arrays(arrays, schema=MATRIX_SCHEMA)


@dataclass(frozen=True)
class MatrixFile:
    """The columns of tables that `matrix_tables` made, as often as they are gone through.

    Raises DataError for a table with other columns.
    """

    tables: Iterable[pa.Table]

    @classmethod
    def of(cls, folder: Folder) -> "MatrixFile":
        """Those of a run's accuracy matrix. Raises BrokenStorageError if it is damaged."""
        return cls(folder.table_groups(ACCURACY_MATRIX))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(matrix_columns, self.tables)


def matrix_columns(table: pa.Table) -> dict[str, Any]:
    """The columns of a table that `matrix_tables` made, also that of an earlier version.

    Raises DataError for a table with other columns.
    """
    for field in MATRIX_SCHEMA:
        if field.name in _NEWER and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    if not table.schema.equals(MATRIX_SCHEMA):
        raise DataError(
            f"accuracy matrix has columns {table.schema.names}, expected {MATRIX_SCHEMA.names} "
            "with their types: it was written by another version; run `promptide evaluate` again"
        )
    columns: dict[str, Any] = {}
    for field in MATRIX_SCHEMA:
        column = table[field.name].combine_chunks()
        if field.type == pa.string():
            coded = column.dictionary_encode()
            codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            columns[field.name] = (codes, coded.dictionary.to_pylist())
        elif field.type == pa.int32() and column.null_count:
            raise DataError(f"accuracy matrix has {column.null_count} rows without {field.name}")
        else:
            columns[field.name] = column.to_numpy(zero_copy_only=False)
    return columns

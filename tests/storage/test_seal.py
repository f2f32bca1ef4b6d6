"""No byte of a sealed file can change without being noticed; what was never sealed still loads."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import load, save

from system.errors import BrokenStorageError
from system.storage.files import Folder
from system.storage.seal import (
    DamagedError,
    check_json,
    check_table,
    check_yaml,
    json_file,
    read_tensors,
    table_file,
    tensor_file,
    yaml_file,
)

#: What looks like a seal, in a user's own text.
HOSTILE = 'a "seal": "crc32:01234567"\n}\n \x04seal\x18\x0ecrc32:89abcdef "seal":"crc32:00000000"'
VALUE = {"average": {"t2i_r1": 71.3}, "tasks": ["kitchen", HOSTILE], "undefined": None}
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
LISTS = {name: tensor.tolist() for name, tensor in TENSORS.items()}
TABLE = pa.table({"task": ["animal", HOSTILE], "value": [1.5, None]})


@dataclass
class Kind:
    """One format: a sealed file, and its reader, which raises for a damaged one."""

    data: bytes
    read: Callable[[bytes], Any]
    value: Any
    bare: bytes  # as an earlier version wrote it
    bare_value: Any


def _read_table(data: bytes) -> Any:
    check_table(data)
    return pq.read_table(pa.BufferReader(data)).to_pylist()


def _read_yaml(data: bytes) -> Any:
    check_yaml(data)
    return OmegaConf.to_container(OmegaConf.create(data.decode()))


def _read_tensors(data: bytes) -> Any:
    return {name: tensor.tolist() for name, tensor in read_tensors(data).items()}


def _bare_table() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE.slice(0, 1), sink)
    return bytes(sink.getvalue())


CONFIG = {"seed": 3, "name": HOSTILE}
YAML = OmegaConf.to_yaml(CONFIG)
KINDS = {
    "json": Kind(
        json_file(VALUE),
        lambda data: check_json(data, json.loads(data)),
        VALUE,
        (json.dumps(VALUE, indent=2) + "\n").encode(),
        VALUE,
    ),
    "yaml": Kind(yaml_file(YAML), _read_yaml, CONFIG, YAML.encode(), CONFIG),
    "safetensors": Kind(
        tensor_file(TENSORS, {"position": HOSTILE}),
        _read_tensors,
        LISTS,
        save(TENSORS, metadata={"position": "{}"}),
        LISTS,
    ),
    "parquet": Kind(
        table_file(TABLE.schema, [TABLE]),
        _read_table,
        TABLE.to_pylist(),
        _bare_table(),
        TABLE.slice(0, 1).to_pylist(),
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_kind
def test_what_is_sealed_and_what_never_was_load_alike(kind: Kind) -> None:
    assert kind.read(kind.data) == kind.value
    assert kind.read(kind.bare) == kind.bare_value


@every_kind
def test_every_flipped_byte_is_noticed(kind: Kind) -> None:
    """One that is not is a figure, or a prompt, that nobody learned."""
    for at in range(len(kind.data)):
        for change in (1, 0x20, 0xFF):
            damaged = bytearray(kind.data)
            damaged[at] ^= change
            with pytest.raises((DamagedError, ValueError, OSError, pa.ArrowException)):
                kind.read(bytes(damaged))


@every_kind
def test_every_truncation_is_noticed(kind: Kind) -> None:
    """Of an empty YAML file its reader says that it holds no config; a newline says nothing."""
    for length in range(1, len(kind.data.rstrip())):
        if kind.data is KINDS["yaml"].data and length < len("# seal "):
            continue  # a comment and nothing else: likewise
        with pytest.raises((DamagedError, ValueError, OSError, pa.ArrowException)):
            kind.read(kind.data[:length])


@given(
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.text() | st.integers() | st.floats(0, 1), st.lists)
    )
)
def test_any_object_comes_back_as_it_went(value: dict[str, Any]) -> None:
    """Names of tasks are the user's."""
    value.pop("seal", None)
    data = json_file(value)
    assert check_json(data, json.loads(data)) == value


def test_a_list_has_no_room_for_a_seal() -> None:
    assert json_file([1, 2]) == b"[\n  1,\n  2\n]\n"
    assert check_json(b"[1]", [1]) == [1]


@pytest.mark.parametrize("indent", [None, 2, 4])
def test_what_another_program_wrote_anew_is_taken_as_it_stands(indent: int | None) -> None:
    """Whoever edits a header by a script would have to know of the seal."""
    edited = json.loads(KINDS["json"].data) | {"tasks": ["other"]}
    data = json.dumps(edited, indent=indent).encode()
    assert check_json(data, json.loads(data)) == VALUE | {"tasks": ["other"]}


def test_other_programs_read_sealed_files(tmp_path: Path) -> None:
    """Adapters are loaded by other people's code, tables by pandas."""
    assert load(KINDS["safetensors"].data).keys() == TENSORS.keys()
    assert json.loads(KINDS["json"].data).keys() - VALUE.keys() == {"seal"}
    assert pq.read_table(pa.BufferReader(KINDS["parquet"].data)).equals(TABLE)


def test_the_file_and_the_remedy_are_named(tmp_path: Path) -> None:
    folder = Folder.of(tmp_path)
    folder.write_json("metrics.json", {"average": 71.25})
    folder.write("metrics.json", folder.read("metrics.json").replace(b"71", b"77"))
    with pytest.raises(
        BrokenStorageError,
        match=rf"^{tmp_path}/metrics\.json is damaged \(its checksum differs\): run the same",
    ):
        folder.read_json("metrics.json")

"""Reads TensorBoard's event files as its own reader does: framed records, checksums, protobuf."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

Scalars = list[tuple[str, int, float]]  # name, step, value


def scalars(folder: Path) -> Scalars:
    """All scalars of a folder's event files, in the order of the files."""
    found: Scalars = []
    for file in sorted(folder.glob("*tfevents*")):
        data = file.read_bytes()
        while data:
            head, rest = data[:8], data[12:]
            assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(head)
            (length,) = struct.unpack("<Q", head)
            body, (checksum,) = rest[:length], struct.unpack("<I", rest[length : length + 4])
            assert checksum == masked_crc32c(body)
            event = Event.FromString(body)
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = rest[length + 4 :]
    return found

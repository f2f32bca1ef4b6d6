"""The table layout that every reader produces and every worker reads: one row per image.

Where tasks are those of the referred objects, an image with objects of two tasks is two rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 3
PLAIN_VERSION = 2  # of data whose expressions name neither their positive words nor other objects
READ_VERSIONS = (1, 2, 3)  # version 1 has the image's id as a number

_MASK = pa.struct(
    [
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("counts", pa.binary(), nullable=False),
    ]
)
_EXPRESSION = pa.struct(
    [
        pa.field("instance", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)

_SPANNED_EXPRESSION = pa.struct(
    [
        *_EXPRESSION,
        # the characters of `text` that name the object: begin, end (not included); none: all words
        pa.field("spans", pa.list_(pa.list_(pa.int32(), 2)), nullable=False),
        # further instances that the expression refers to
        pa.field("others", pa.list_(pa.int32()), nullable=False),
    ]
)

SHARD_SCHEMA = pa.schema(
    [
        # the dataset's own id of the image, as text; no two images of a split share one
        pa.field("image_id", pa.string(), nullable=False),
        # name relative to the split's image folder, as the annotations give it
        pa.field("file_name", pa.string(), nullable=False),
        # the encoded bytes as distributed (JPEG, PNG, ...), never re-encoded
        pa.field("image", pa.binary(), nullable=False),
        # pixels of the decoded image; boxes and masks are in this frame
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        # cleaned by the benchmark's caption rule, none empty; each row of a split has at least one,
        # or none has any, as in a detection data set: see `require_captions`
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        # name of the task that the image belongs to
        pa.field("task", pa.string(), nullable=False),
        # one entry per instance: left, top, width, height in pixels (MSCOCO's order)
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        # names of each instance's category and super-category, parallel to `boxes`
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("super_categories", pa.list_(pa.string()), nullable=False),
        # one mask per instance, MSCOCO's compressed run lengths, parallel to `boxes`
        pa.field("masks", pa.list_(_MASK), nullable=False),
        # referring expressions; `instance` indexes `boxes`
        pa.field("expressions", pa.list_(_EXPRESSION), nullable=False),
    ]
)

#: Where an expression has spans or others: data without keep their bytes, and with them their
#: fingerprint.
SPANNED_SCHEMA = SHARD_SCHEMA.set(
    SHARD_SCHEMA.get_field_index("expressions"),
    pa.field("expressions", pa.list_(_SPANNED_EXPRESSION), nullable=False),
)

SHARD_SCHEMAS = (
    SHARD_SCHEMA.set(0, pa.field("image_id", pa.int64(), nullable=False)),  # of version 1
    SHARD_SCHEMA,
    SPANNED_SCHEMA,
)


Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mask:
    """One instance's mask as MSCOCO's compressed run lengths (column by column, zeros first)."""

    height: int
    width: int
    counts: bytes


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated object: box (left, top, width, height in pixels), names and mask."""

    box: tuple[float, float, float, float]
    category: str
    super_category: str
    mask: Mask


@dataclass(frozen=True, slots=True)
class Expression:
    """A referring expression and the index of the instance it refers to.

    `spans` are the characters of its text that name the object, begin and end (not included); none:
    all words do. `others` are further instances that it refers to.
    """

    instance: int
    text: str
    # Not in the text that preparation knows rows by: that of rows without any stays as it was.
    spans: tuple[Span, ...] = field(default=(), repr=False)
    others: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One row of a task shard, see `SHARD_SCHEMA` for the meaning of each field."""

    image_id: str
    file_name: str
    image: bytes
    width: int
    height: int
    captions: tuple[str, ...]
    task: str
    instances: tuple[Instance, ...]
    expressions: tuple[Expression, ...]

    @property
    def spanned(self) -> list[tuple[tuple[Span, ...], tuple[int, ...]]]:
        """Spans and others of its expressions; empty where none has any."""
        found = [(expression.spans, expression.others) for expression in self.expressions]
        return found if any(spans or others for spans, others in found) else []


def records_to_table(records: Sequence[ImageRecord], schema: pa.Schema = SHARD_SCHEMA) -> pa.Table:
    """Lay records out as a table of one of `SHARD_SCHEMAS`, in the order given."""
    rows = [
        {
            "image_id": record.image_id,
            "file_name": record.file_name,
            "image": record.image,
            "width": record.width,
            "height": record.height,
            "captions": record.captions,
            "task": record.task,
            "boxes": [instance.box for instance in record.instances],
            "categories": [instance.category for instance in record.instances],
            "super_categories": [instance.super_category for instance in record.instances],
            "masks": [
                {
                    "height": instance.mask.height,
                    "width": instance.mask.width,
                    "counts": instance.mask.counts,
                }
                for instance in record.instances
            ],
            "expressions": [
                {
                    "instance": expression.instance,
                    "text": expression.text,
                    "spans": expression.spans,
                    "others": expression.others,
                }
                for expression in record.expressions
            ],
        }
        for record in records
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def record_from_row(row: Mapping[str, Any]) -> ImageRecord:
    """Turn a row of `SHARD_SCHEMAS` as plain values back into a record; boxes are float32 now."""
    instances = zip(
        row["boxes"], row["categories"], row["super_categories"], row["masks"], strict=True
    )
    return ImageRecord(
        str(row["image_id"]),
        row["file_name"],
        row["image"],
        row["width"],
        row["height"],
        tuple(row["captions"]),
        row["task"],
        tuple(
            Instance(tuple(box), category, super_category, Mask(**mask))
            for box, category, super_category, mask in instances
        ),
        tuple(
            Expression(
                expression["instance"],
                expression["text"],
                spans_of(expression),
                tuple(expression.get("others", ())),
            )
            for expression in row["expressions"]
        ),
    )


def spans_of(expression: Mapping[str, Any]) -> tuple[Span, ...]:
    """The spans of an expression of a row; those before version 3 have none."""
    return tuple((begin, end) for begin, end in expression.get("spans", ()))

"""Example queries with their top five images, before and after learning."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from system.data.shards.images import web_picture
from system.errors import DataError

THUMBNAIL_SIDE = 192  # pixels; larger pictures are scaled down so that the page stays small
PHASES = ("before", "after")


@dataclass(frozen=True)
class Hit:
    """One retrieved image; `source` is a data URI, None when the picture does not decode."""

    rank: int
    image_id: str
    score: float
    is_target: bool
    source: str | None


@dataclass(frozen=True)
class Ranking:
    """The top images of one phase and the rank of the true image in the whole gallery."""

    target_rank: int
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Query:
    """One query text; `rankings` by phase, a phase not yet written is absent."""

    text: str
    rankings: Mapping[str, Ranking]


@dataclass(frozen=True)
class TaskExamples:
    """The example queries of one task."""

    index: int
    task: str
    queries: tuple[Query, ...]


def read_examples(table: pa.Table) -> list[TaskExamples]:
    """Group a table in the schema of examples.parquet by task and query, in their order."""
    groups: dict[int, dict[int, dict[str, list[dict[str, object]]]]] = {}
    names: dict[int, str] = {}
    texts: dict[tuple[int, int], str] = {}
    order = [(name, "ascending") for name in ("evaluated_index", "query_index", "phase", "rank")]
    for row in table.sort_by(order).to_pylist():
        task, query = row["evaluated_index"], row["query_index"]
        names[task] = row["task"]
        texts[task, query] = row["query"]
        phases = groups.setdefault(task, {}).setdefault(query, {})
        phases.setdefault(row["phase"], []).append(row)
    return [
        TaskExamples(
            task,
            names[task],
            tuple(
                Query(
                    texts[task, query],
                    {phase: _ranking(phases[phase]) for phase in PHASES if phase in phases},
                )
                for query, phases in queries.items()
            ),
        )
        for task, queries in groups.items()
    ]


def _ranking(rows: list[dict[str, object]]) -> Ranking:
    """Ranking from the rows of one query and phase, sorted by rank."""
    hits = []
    for row in rows:
        rank, image_id, score, content = (row[k] for k in ("rank", "image_id", "score", "image"))
        assert isinstance(rank, int)
        assert isinstance(score, float)
        assert isinstance(content, bytes)
        hits.append(Hit(rank, str(image_id), score, bool(row["is_target"]), data_uri(content)))
    target_rank = rows[0]["target_rank"]
    assert isinstance(target_rank, int)
    return Ranking(target_rank, tuple(hits))


def data_uri(content: bytes) -> str | None:
    """Data URI of an encoded picture, at most THUMBNAIL_SIDE pixels a side; None if broken."""
    try:
        content, media_type = web_picture(content, "example", side=THUMBNAIL_SIDE)
    except DataError:
        return None
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"

"""Settings as a model's digest sees them: fields that came later do not rename older models."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

#: Metadata of a dataclass field whose default is what was done before the field existed.
LATER = {"later": True}


def digested(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass, and of those inside it, as plain values.

    A field with LATER is left out while it has its default, so that a model which was trained
    before the field existed is found under the digest that it was given.
    """
    return {
        each.name: digested(value) if is_dataclass(value) else value
        for each in fields(settings)
        if not each.metadata.get("later") or getattr(settings, each.name) != each.default
        for value in (getattr(settings, each.name),)
    }

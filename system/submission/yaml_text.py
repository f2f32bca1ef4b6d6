"""YAML files for other programs, written by the library, with a comment on top."""

from typing import Any

import yaml


def yaml_text(value: Any, *comment: str) -> str:
    """A document in the order of its keys; every line of the comment stays one."""
    head = [f"# {line}\n" for text in comment for line in text.splitlines()]
    body = yaml.safe_dump(value, sort_keys=False, width=1000, allow_unicode=True)
    return "".join([*head, str(body)])
